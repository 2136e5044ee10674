//! Thumbnails through a durable queue, and everything an operator needs.
//!
//! Without a command it does its main job: see `demo.rs`. `example-app --help`
//! lists the rest.
#![forbid(unsafe_code)]

mod demo;
mod jobs;
mod pictures;
mod signals;
mod state;
mod tally;
mod web;

use std::process::ExitCode;

use state::Mailer;
use worker_core::cli::App;

/// The broker of every command when nothing is configured.
const BROKER_URL: &str = "sqlite:example-app.db";

fn main() -> ExitCode {
    App::new()
        .name("example-app")
        .about("Thumbnails through a durable queue: the example application")
        .default_broker_url(BROKER_URL)
        .state_with(Mailer::connect)
        .command("thumbnails", "Make thumbnails of a folder of pictures (what happens without a command)", demo::main)
        .command("serve", "Serve POST /orders and POST /thumbnails, which enqueue jobs", web::main)
        .default_command("thumbnails")
        .main()
}
