#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
unsafe extern "C" fn printf(format: u8, arguments: ...) {}

fn main() {}
