#![allow(unused_variables)]

use worker_core::prelude::*;

trait Mailer {
    #[job]
    fn send(to: String);
}

fn main() {}
