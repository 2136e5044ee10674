#![allow(unused_variables)]

use worker_core::prelude::*;

#[job(max_retires = 3, timeout = "30", queue = "e mails", priority = 99)]
async unsafe fn send<T>(to: &str, (a, b): (u8, u8), value: T, #[cfg(test)] n: u8) -> impl Copy {}

fn main() {}
