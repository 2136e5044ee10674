#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(name = "send welcome", queue = "e-mails!", aliases = ["old/name", ""])]
async fn given() {}

#[job(queue = "")]
async fn empty() {}

#[job(name = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789")]
async fn long() {}

#[job]
async fn grüße() {}

fn main() {}
