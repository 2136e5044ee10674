#![allow(unused_variables)]

use worker_core::prelude::*;

struct Mailer;

impl Mailer {
    #[job]
    async fn borrowed(&self, to: String) {}

    #[job]
    async fn owned(self) {}
}

fn main() {}
