#![allow(unused_variables)]

use worker_core::prelude::*;

#[job]
async fn generic<T: Send>(value: T) {}

#[job]
async fn sized<const N: usize>(value: [u8; N]) {}

#[job]
async fn lifetime<'a>(value: &'a str) {}

#[job]
async fn clause(value: String)
where
    String: Send,
{
}

fn main() {}
