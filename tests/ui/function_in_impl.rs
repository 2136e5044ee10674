#![allow(unused_variables)]

use worker_core::prelude::*;

struct Mailer;

impl Mailer {
    #[job]
    async fn send(to: String) {}
}

fn main() {}
