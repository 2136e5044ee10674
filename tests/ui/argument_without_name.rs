#![allow(unused_variables)]

use worker_core::prelude::*;

struct Order {
    id: u64,
}

#[job]
async fn tuple((a, b): (u32, u32)) {}

#[job]
async fn destructured(Order { id }: Order) {}

#[job]
async fn wild(_: u64) {}

#[job]
async fn underscores(__: u64, _1: u64, _self: u64) {}

#[job]
async fn payload(Payload(Order { id }): Payload<Order>) {}

fn main() {}
