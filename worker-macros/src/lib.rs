//! `#[job]` and `#[derive(Event)]`, the macros of `worker-core`, which re-exports them; depend on that.
//!
//! What was written is parsed into a model that keeps its spans (`args`, `item`),
//! then everything is checked (`check`), and only then code is written (`expand`,
//! `payload`), or a stand-in where there were mistakes (`fallback`). All mistakes
//! are reported together, each on the smallest token that is wrong and with its
//! advice; mistakes of type are left to the compiler, on the user's own tokens.
#![forbid(unsafe_code)]

mod args;
mod check;
mod duration;
mod event;
mod expand;
mod fallback;
mod item;
mod listening;
mod mistake;
mod ownership;
mod payload;
mod queue;
mod text;
mod wire;

use proc_macro2::{TokenStream, TokenTree};
use quote::quote;

use crate::{
    args::Args,
    item::{Function, Item},
    mistake::Mistakes,
};

/// Marks a function as a background job.
///
/// The function stays an ordinary function, to be called in tests. Beside it comes a payload type of the same name:
/// `client.enqueue(send_welcome::new(42, "v2"))` enqueues the job, and a worker that finds it in a queue calls the
/// function. A function and a type of one name live side by side, so one `use jobs::send_welcome;` brings both.
///
/// ```
/// use worker_core::prelude::*;
///
/// # struct Mailer;
/// # impl Mailer {
/// #     async fn send(&self, _: u64, _: &str) -> Result<(), std::io::Error> { Ok(()) }
/// #     fn bounced(&self, _: u64) -> bool { false }
/// # }
/// /// Welcomes a new user.
/// #[job(queue = "emails", max_retries = 8, backoff = "2s..10m", timeout = "30s")]
/// async fn send_welcome(user_id: u64, template: String, mailer: State<Mailer>, cx: Context) -> JobResult {
///     if cx.attempt() > 3 && mailer.bounced(user_id) {
///         return Err(JobError::discard("address bounces"));
///     }
///     mailer.send(user_id, &template).await?;
///     Ok(())
/// }
///
/// // What `Client::enqueue` takes.
/// let job = send_welcome::new(42, "v2").delay(minutes(5)).priority(9);
/// # drop(job);
/// ```
///
/// An `async fn` runs on the worker's runtime. A plain `fn` runs on the blocking pool, so that heavy work never stalls
/// the worker; a timeout marks it failed, but its slot stays taken until it returns, since a thread cannot be stopped.
///
/// # Arguments
///
/// Any number of them, each of an owned type. Only the spelling of a type tells what an argument is:
///
/// | argument | is |
/// |---|---|
/// | `state: State<T>` | state that was given to the worker, which does not start without it |
/// | `cx: Context`, `cx: JobContext` | the job's id, attempt, headers, deadline |
/// | `#[supplied] db: Db` | whatever implements `Supplied`; also for one of the above behind an alias |
/// | `order: Payload<Order>`, `Payload(order): Payload<Order>` | the whole payload, of one type |
/// | anything else | a key of the payload, of a type that is `Serialize + DeserializeOwned + Send` |
///
/// ## Argument names are a wire format
///
/// The payload is a JSON object whose keys are the argument names, without one leading underscore, which only says that
/// the function does not use the argument. Renaming an argument breaks the jobs that wait in a queue, and programs in
/// other languages that enqueue them, as renaming a column breaks a table. `#[serde(…)]` on an argument is passed on:
///
/// ```
/// # use worker_core::prelude::*;
/// /// Reads `{"user_id": 42}`, `{"uid": 42}` and `{"user_id": 42, "replyTo": "a@example.com", "copies": 2}`.
/// #[job]
/// async fn remind(
///     /// Who; called `uid` before.
///     #[serde(alias = "uid")] user_id: u64,
///     #[serde(rename = "replyTo")] reply_to: Option<String>,
///     #[serde(default)] copies: u8,
/// ) {}
/// # for body in [r#"{"user_id": 42}"#, r#"{"uid": 42}"#, r#"{"user_id": 42, "replyTo": "a@example.com", "copies": 2}"#] {
/// #     let payload: remind = serde_json::from_str(body)?;
/// #     assert_eq!(payload.user_id, 42);
/// # }
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// A missing `Option` is `None`, and unknown keys are ignored. A new argument is best an `Option` or has
/// `#[serde(default)]`, so that jobs which wait already can be read. Documentation on an argument goes to the field.
///
/// `Payload<T>` stands alone among the payload: then the JSON is that of `T`, and nothing is around it. A job without
/// payload is content with `{}`, `null` and an empty message.
///
/// # Options
///
/// All are optional and their values are literals. Durations are read as `"500ms"`, `"30s"`, `"1h 30m"`, `"2d"`: 1 ms to
/// 366 days.
///
/// | option | value | without it |
/// |---|---|---|
/// | `queue` | 1 to 128 of `a-z A-Z 0-9 . _ : -` | `"default"` |
/// | `on` | an exchange: the job runs for what is published to it, too. Its queue is bound there when a worker starts, and is by default one of its own, named like the job | only for what is in its queue |
/// | `bind` | `["order.*", "#.created"]`: which keys, for `*` one word and for `#` any number | everything |
/// | `kind` | `"topic"`, `"direct"` or `"fanout"`: what the exchange is | `"topic"` |
/// | `name` | what travels with the job; the same alphabet | the function's name |
/// | `aliases` | `["old_name"]`: other names under which it may arrive | none |
/// | `max_retries` | 0 to 1000 tries after the first | 3, which with the pauses outlives a deploy |
/// | `backoff` | the first pause between tries, and the longest: `"2s..10m"`; each is twice the last, and up to a quarter longer at random. `"5s"` is the first, with the default as the longest | `"5s..10m"`: soon enough for a hiccup, rare enough for an outage |
/// | `timeout` | how long one try may run | 15 minutes: a job without a limit could hold its slot for ever |
/// | `priority` | 0 to 31, higher is delivered first; [not in every queue](#what-a-queue-is) | 4, so that there is room on both sides |
/// | `queue_type` | `"quorum"` or `"classic"`: how RabbitMQ keeps the queue, see [below](#what-a-queue-is) | what the program's settings say, `quorum` |
/// | `max_priority` | 1 to 31: the highest priority that a classic queue tells apart | none: such a queue ignores priorities |
/// | `dead_letter_queue` | where RabbitMQ keeps the queue's dead letters, for a queue of others whose dead letters have a name already | the queue's name and `_dlq` |
/// | `dead_letter_ttl` | after how long RabbitMQ **deletes** a dead letter, seen by a person or not | never |
/// | `shards` | 1 to 64: how many queues of the broker it is, see [below](#what-a-queue-is); not beside `on` | 1 |
/// | `bundle` | 1 to 1000: how many of the jobs that one call enqueues may travel in one message, which is for many small ones; see `Enqueue::bundle`. Not beside `priority` | 1: each in its own |
/// | `concurrency` | 1 or more: how many run at once in one worker | as many as the worker has slots |
/// | `crate` | the path of `worker_core`, for crates that re-export it: `crate = my_framework::worker_core` | `::worker_core` |
///
/// ## What a queue is
///
/// On RabbitMQ a queue is declared by whichever program meets it first, with what its jobs ask for; a queue that is there
/// is used as it is, and one that cannot be what a job asks for is an error that says what differs. So all jobs of one
/// queue ask for the same, or no worker starts. `max_priority` needs `queue_type = "classic"` beside it: priorities before
/// RabbitMQ 4.3 are paid for with the replication of a quorum queue, and that should stand in the code. Other brokers
/// have one type of queue, and priorities in all of them.
///
/// The option is not called `kind`, as `x-queue-type` might: that is the kind of the exchange which `on` names.
///
/// ```
/// # use worker_core::prelude::*;
/// /// Before those of a lower priority, on any version of RabbitMQ.
/// #[job(queue = "invoices", queue_type = "classic", max_priority = 10, priority = 8)]
/// async fn send_invoice(number: u64) {}
/// ```
///
/// `shards = 4` makes four queues of one: `orders`, `orders.shard-1`, `orders.shard-2` and `orders.shard-3`. A quorum queue
/// is one process on one node, so this is how one queue uses a whole cluster. Jobs go there in turn, or by a key, which
/// also keeps what belongs together in one of them: `ship::new(42).shard_key("customer-7")`. A worker serves all of them.
///
/// ```
/// # use worker_core::prelude::*;
/// /// In four queues, on several nodes of a cluster.
/// #[job(queue = "orders", shards = 4)]
/// async fn ship(order_id: u64) {}
/// ```
///
/// After a function is renamed, `name` keeps the old name, or `aliases` lets jobs under the old name still be run.
///
/// # Results
///
/// `()`, `bool` (where `false` is a failure), or `Result<T, E>` where `T` serializes and `E` is any error: one of your
/// own, `anyhow::Error`, `Box<dyn Error + Send + Sync>`, `String`. `JobResult<T>` is `Result<T, JobError>`, whose errors
/// can also say that another try is useless, or when it should be.
///
/// # What it stands for
///
/// The job above could be written by hand, which is what the macro does, with absolute paths and with attributes that
/// keep lints quiet. Everything but the function and the payload type is out of sight in a `const _`.
///
/// ```
/// # use worker_core::prelude::*;
/// # struct Mailer;
/// use std::{fmt::Debug, time::Duration};
/// use worker_core::__private::{self, *};
///
/// // The function, without what was meant for the macro: #[supplied], and #[serde] and documentation on arguments.
/// async fn send_welcome(user_id: u64, template: String, mailer: State<Mailer>, cx: Context) -> JobResult {
///     # let _ = (user_id, template, mailer, cx);
///     Ok(())
/// }
///
/// const _: () = {
///     // Where an argument's type cannot be payload, this is where the compiler says so.
///     argument::<u64>();
///     argument::<String>();
///
///     impl send_welcome {
///         // `impl Into` for `String` and `PathBuf` alone: a number's literal would become an `i32`.
///         fn new(user_id: u64, template: impl Into<String>) -> Enqueue<Self> {
///             Enqueue::new(Self { user_id, template: template.into() })
///         }
///     }
///
///     // Only where each field can; `for<'field>` makes a condition of what would be an error. The same for `Debug`.
///     impl Clone for send_welcome
///     where
///         for<'field> u64: Clone,
///         for<'field> String: Clone,
///     {
///         fn clone(&self) -> Self {
///             Self { user_id: self.user_id.clone(), template: self.template.clone() }
///         }
///     }
///
///     impl __private::Job for send_welcome {
///         const NAME: &'static str = "send_welcome";
///         const QUEUE: &'static str = "emails";
///         const OPTIONS: JobOptions = JobOptions::DEFAULT
///             .retry(RetryPolicy::new(8, Duration::from_millis(2_000), Duration::from_millis(600_000)))
///             .timeout(Duration::from_millis(30_000));
///         type Return = JobResult;
///     }
///
///     const SUPPLY_2: Supply<State<Mailer>> = supplied::<State<Mailer>>();
///     const SUPPLY_3: Supply<Context> = supplied::<Context>();
///
///     impl Handler for send_welcome {
///         const ARGUMENTS: Arguments = Arguments::Named(&[
///             Argument { name: "user_id", type_text: "u64", required: true },
///             Argument { name: "template", type_text: "String", required: true },
///         ]);
///         const SUMMARY: &'static str = "Welcomes a new user.";
///
///         fn requirements() -> Vec<Requirement> {
///             [(SUPPLY_2.requirements)(), (SUPPLY_3.requirements)()].concat()
///         }
///
///         // A plain `fn` is called in `blocking(move || …).await`.
///         async fn run(self, cx: Context) -> JobResult<Self::Return> {
///             Ok(send_welcome(self.user_id, self.template, (SUPPLY_2.supply)(&cx)?, (SUPPLY_3.supply)(&cx)?).await)
///         }
///     }
///
///     // Collected when the program is linked.
///     inventory::submit! { Registration::new::<send_welcome>(file!(), line!()) }
/// };
///
/// /// Welcomes a new user.
/// ///
/// /// The payload of the job function `send_welcome`: on the wire it is a JSON object whose keys are the argument names. …
/// #[derive(serde::Serialize, serde::Deserialize)]
/// #[serde(crate = "::worker_core::__private::serde")]    // and `transparent` for a `Payload`
/// #[allow(non_camel_case_types)]
/// struct send_welcome {
///     /// The argument `user_id`.
///     user_id: u64,
///     /// The argument `template`.
///     template: String,
/// }
/// # drop(send_welcome::new(42, "v2"));
/// ```
///
/// The payload type, its fields and `new` are as visible as the function. `#[cfg]` on the function holds for all of it,
/// `#[deprecated]` for `new` too; every other attribute stays with the function alone.
///
/// # Where it can stand
///
/// On a function in a module or in another function; not on a method, since no type can be written where that stands.
///
/// A module and a job of one name cannot be brought together: after `mod thumbnail;`, `pub use thumbnail::thumbnail;` is
/// error E0255, since a module and a type share their names. Name modules by topic (`images`), never by job.
///
/// A job in a library crate is found only if the program mentions the crate: `use my_jobs as _;`, or the linker leaves
/// it out. Two jobs of one name are refused when the worker starts, with the place of both.
#[proc_macro_attribute]
pub fn job(options: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expanded(options.into(), item.into()).into()
}

/// Implements `Event` for a struct: something that is published to an exchange, for whoever runs for it.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use worker_core::prelude::*;
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(exchange = "events", key = "order.placed.{country}")]
/// struct OrderPlaced {
///     order_id: u64,
///     country: String,
/// }
///
/// let event = OrderPlaced { order_id: 42, country: "ch".into() };
/// assert_eq!((OrderPlaced::NAME, event.key().as_str()), ("order_placed", "order.placed.ch"));
/// ```
///
/// | option | value | without it |
/// |---|---|---|
/// | `exchange` | its name: 1 to 128 of `a-z A-Z 0-9 . _ : -` | it must be given |
/// | `key` | the routing key; `{field}` is the field's text, as `Display` writes it | it must be given, but for `kind = "fanout"` |
/// | `kind` | `"topic"`, `"direct"` or `"fanout"` | `"topic"` |
/// | `name` | what it is called for others: AMQP's `type` | the type's name, `order_placed` |
/// | `crate` | the path of `worker_core`, for crates that re-export it | `::worker_core` |
///
/// A dot in a field's text makes two words of it, which a pattern counts.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let mut mistakes = Mistakes::default();
    let expansion = match syn::parse(input) {
        Ok(input) => event::expanded(&input, &mut mistakes),
        Err(error) => error.into_compile_error(),
    };
    let errors = mistakes.into_compile_errors();
    quote!(#errors #expansion).into()
}

/// Parses, checks everything, and only then expands.
fn expanded(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let args = Args::parse(options, &mut mistakes);
    let expansion = match Item::parse(item.clone()) {
        Ok(Item::Function(function)) => function_expanded(&function, &args, &mut mistakes),
        Ok(Item::Other(first)) => {
            not_a_function(first, &mut mistakes);
            item
        }
        Err(error) => {
            mistakes.add_syntax(error);
            item
        }
    };
    let errors = mistakes.into_compile_errors();
    quote!(#errors #expansion)
}

/// A mistake in the options leaves the job whole, with defaults in their place;
/// one in the function leaves a stub.
fn function_expanded(function: &Function, args: &Args, mistakes: &mut Mistakes) -> TokenStream {
    let private = expand::private(args.krate.as_ref());
    let options = check::options(args, function.name(), mistakes);
    let mut in_function = Mistakes::default();
    check::function(function, &mut in_function);
    let expansion = if in_function.is_empty() {
        expand::job(function, &options, &private)
    } else {
        fallback::job(function, &private)
    };
    mistakes.extend(in_function);
    expansion
}

fn not_a_function(first: TokenTree, mistakes: &mut Mistakes) {
    let what = format!("`#[job]` goes on a function, not on `{first}`");
    mistakes.add(
        first,
        what,
        "a type of your own is payload as an argument: `async fn my_job(order: Order)`, or `Payload<Order>` for the whole message",
    );
}
