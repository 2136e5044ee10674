#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
const fn constant(n: u8) {}

#[job]
async unsafe fn dangerous(n: u8) {}

#[job]
extern "C" fn foreign(n: u8) {}

fn main() {}
