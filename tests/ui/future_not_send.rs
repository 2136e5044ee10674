#![allow(unused_variables)]

use worker_core::prelude::*;

use std::rc::Rc;

async fn nap() {}

#[job]
async fn send(to: String) {
    let shared = Rc::new(to);
    nap().await;
    drop(shared);
}

fn main() {}
