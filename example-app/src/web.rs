//! An HTTP service that enqueues: this is where an application's jobs come from.
//!
//! A request is answered with 202 when its job is durable, and not before.

use std::{
    error::Error,
    ffi::OsString,
    path::{Component, Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use clap::Parser;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use worker_core::{Client, EnqueueError, EnqueueErrorKind, Enqueueable};

use crate::{
    demo::{failed, settings, shipped_pictures},
    jobs::{Order, process_order, thumbnail},
    pictures::is_picture,
    signals::stop_requested,
};

/// The largest request: an order is a few hundred bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Serve POST /orders and POST /thumbnails, which enqueue jobs.
#[derive(Debug, Parser)]
#[command(after_help = r#"Examples:
  example-app serve
  curl -i localhost:8080/orders --json '{"order_id": 7, "customer": "ada@example.com"}'
  curl -i localhost:8080/thumbnails --json '{"picture": "galaxy.jpg", "size": 128}'
  example-app run"#)]
struct Args {
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: String,
    /// The folder whose pictures may be asked for; default: a few that ship with the app
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Where the thumbnails go
    #[arg(long, value_name = "DIR", default_value = "thumbnails")]
    output: PathBuf,
    /// The broker's URL; default: WORKER_BROKER_URL, or sqlite:example-app.db
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
}

/// What every request shares: one client for the life of the service.
struct Shop {
    client: Client,
    input: PathBuf,
    output: PathBuf,
}

/// Runs the command, and says on the standard error why where it could not.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    runtime.block_on(serve(args)).map_or_else(|error| failed(&*error), |()| ExitCode::SUCCESS)
}

async fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    let client = settings(args.broker)?.connect().await?;
    let input = std::path::absolute(args.input.unwrap_or_else(shipped_pictures))?;
    let shop = Arc::new(Shop { client: client.clone(), input, output: std::path::absolute(args.output)? });
    let listener = TcpListener::bind(&args.listen).await.map_err(|error| format!("`{}`: {error}", args.listen))?;
    crate::demo::say(&format!("listening on http://{}", listener.local_addr()?));
    axum::serve(listener, router(shop)).with_graceful_shutdown(stop_requested()).await?;
    client.close().await?;
    Ok(())
}

fn router(shop: Arc<Shop>) -> Router {
    Router::new()
        .route("/orders", post(order))
        .route("/thumbnails", post(picture))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(shop)
}

async fn order(State(shop): State<Arc<Shop>>, body: Result<Json<Order>, JsonRejection>) -> Response {
    match body {
        Ok(Json(order)) => enqueue(&shop, process_order::new(order)).await,
        Err(rejection) => refuse(rejection.status(), rejection.body_text()),
    }
}

/// Which picture, by its name in the served folder.
#[derive(Debug, Deserialize)]
struct PictureRequest {
    picture: PathBuf,
    #[serde(default = "default_size")]
    size: u32,
}

fn default_size() -> u32 {
    256
}

async fn picture(State(shop): State<Arc<Shop>>, body: Result<Json<PictureRequest>, JsonRejection>) -> Response {
    let PictureRequest { picture, size } = match body {
        Ok(Json(request)) => request,
        Err(rejection) => return refuse(rejection.status(), rejection.body_text()),
    };
    // A path from the network must not leave the folder.
    let inside = picture.components().all(|component| matches!(component, Component::Normal(_)));
    if !inside || !is_picture(&picture) || !(16..=4096).contains(&size) {
        let problem = "`picture` is the name of a .jpg, .jpeg or .png file in the served folder, `size` is 16 to 4096";
        return refuse(StatusCode::BAD_REQUEST, problem);
    }
    if !is_file(&shop.input.join(&picture)).await {
        let problem = format!("there is no picture `{}`", picture.display());
        return refuse(StatusCode::NOT_FOUND, problem);
    }
    enqueue(&shop, thumbnail::new(shop.input.join(&picture), shop.output.join(&picture), size)).await
}

async fn is_file(path: &Path) -> bool {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || path.is_file()).await.unwrap_or(false)
}

async fn enqueue(shop: &Shop, job: impl Enqueueable) -> Response {
    match shop.client.enqueue(job).await {
        Ok(enqueued) => (StatusCode::ACCEPTED, Json(json!({ "job": enqueued.id }))).into_response(),
        Err(error) => refuse(status(&error), error.to_string()),
    }
}

/// Every refusal has one form, whoever found the mistake.
fn refuse(status: StatusCode, problem: impl Into<String>) -> Response {
    (status, Json(json!({ "error": problem.into() }))).into_response()
}

fn status(error: &EnqueueError) -> StatusCode {
    match error.kind() {
        EnqueueErrorKind::Invalid => StatusCode::BAD_REQUEST,
        EnqueueErrorKind::Unavailable | EnqueueErrorKind::Indeterminate => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_is_no_order_is_refused_in_json() {
        let client = Client::connect("memory:").await.unwrap();
        let shop = Arc::new(Shop { client, input: PathBuf::new(), output: PathBuf::new() });
        let answer = order(State(shop), Json::from_bytes(br#"{"order_id": "seven"}"#)).await;
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let body = axum::body::to_bytes(answer.into_body(), REQUEST_BYTES_MAX).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(body["error"].as_str().unwrap().contains("order_id"), "{body}");
    }
}
