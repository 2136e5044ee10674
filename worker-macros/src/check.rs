//! Every check of what was written, and only checks: what is wrong, where, and what to write instead.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{GenericParam, LitInt, LitStr, Pat, ReceiverKind, Safety, Type, ext::IdentExt};

use crate::{
    args::Args,
    duration::{self, Backoff},
    item::{Argument, Function, Source, last_segment},
    listening::{Listening, listening},
    mistake::Mistakes,
    ownership::{self, Statics},
    queue::{Asked, asked},
    text::text,
    wire::{SerdeFacts, field},
};

/// The most bytes of a name, its alphabet, and the ranges of the numbers: those of `worker_core`.
const NAME_BYTES_MAX: usize = 128;
const NAME_FIX: &str = "use 1 to 128 of the characters a-z A-Z 0-9 . _ : -";
const MAX_RETRIES_MAX: u32 = 1_000;
const BUNDLE_MAX: u32 = 1_000;
pub(crate) const PRIORITY_MAX: u32 = 31;

/// The options with values that make sense; what was not given, or was refused, is left to its default.
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) queue: Option<String>,
    pub(crate) aliases: Vec<String>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) priority: Option<u32>,
    pub(crate) asked: Asked,
    pub(crate) bundle: Option<u32>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) on: Option<Listening>,
}

/// Checks the values of the options.
pub(crate) fn options(args: &Args, function: &Ident, mistakes: &mut Mistakes) -> Options {
    let function_name = function.unraw().to_string();
    if args.name.is_none()
        && let Some(problem) = name_problem(&function_name)
    {
        let what = format!("the job's name {problem}: `{function_name}`");
        mistakes.add(function, what, "give it a name of its own: `#[job(name = \"…\")]`");
    }
    let given_name = args.name.as_ref().and_then(|name| checked_name(name, "name", mistakes));
    let name = given_name.unwrap_or(function_name);
    // In a queue that several share, one of them would get the only copy.
    let own_queue = || args.on.as_ref().map(|_| name.clone());
    Options {
        queue: args.queue.as_ref().and_then(|queue| checked_name(queue, "queue", mistakes)).or_else(own_queue),
        name,
        on: listening(args, mistakes),
        aliases: args.aliases.iter().filter_map(|alias| checked_name(alias, "alias", mistakes)).collect(),
        max_retries: args.max_retries.as_ref().and_then(|number| {
            let fix = "write 0 to 1000; 0 is never to try again";
            checked_number(number, "max_retries", 0..=MAX_RETRIES_MAX, fix, mistakes)
        }),
        backoff: args.backoff.as_ref().and_then(|literal| {
            let example = "\"5s\", or \"2s..10m\" for the first pause and the longest";
            checked_duration(literal, "backoff", example, duration::backoff, mistakes)
        }),
        timeout_ms: args.timeout.as_ref().and_then(|literal| {
            checked_duration(literal, "timeout", "\"30s\", \"5m\" or \"1h\"", duration::millis, mistakes)
        }),
        priority: args.priority.as_ref().and_then(|number| {
            let fix = "write 0 to 31; higher is delivered first, and 4 is the default";
            checked_number(number, "priority", 0..=PRIORITY_MAX, fix, mistakes)
        }),
        asked: asked(args, mistakes),
        bundle: args.bundle.as_ref().and_then(|number| bundle(number, args, mistakes)),
        concurrency: args.concurrency.as_ref().and_then(|number| {
            let fix = "write 1 or more: how many run at once in one worker; without the option there is no limit";
            checked_number(number, "concurrency", 1..=u32::MAX, fix, mistakes)
        }),
    }
}

fn bundle(number: &LitInt, args: &Args, mistakes: &mut Mistakes) -> Option<u32> {
    let fix = "write 1 to 1000: how many jobs may travel in one message; 100 small ones is usual";
    let bundle = checked_number(number, "bundle", 1..=BUNDLE_MAX, fix, mistakes);
    if let Some(priority) = &args.priority
        && bundle != Some(1)
    {
        let what = format!("a bundle has one place in its queue, and its jobs no priority: {}", text(priority));
        mistakes.add(priority, what, "remove `bundle`, or `priority`");
        return None;
    }
    bundle
}

pub(crate) fn checked_name(literal: &LitStr, what: &str, mistakes: &mut Mistakes) -> Option<String> {
    let name = literal.value();
    let Some(problem) = name_problem(&name) else { return Some(name) };
    mistakes.add(literal, format!("`{what}` {problem}: {}", text(literal)), NAME_FIX);
    None
}

/// Says what is wrong with `name`, if anything.
fn name_problem(name: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".:_-".contains(c);
    if name.is_empty() {
        return Some("is empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("has {} bytes, which is too long", name.len()));
    }
    match name.chars().find(|c| !is_allowed(*c)) {
        None => None,
        Some(' ') => Some("contains a space".to_owned()),
        Some(c) => Some(format!("contains `{}`", c.escape_debug())),
    }
}

pub(crate) fn checked_number(
    literal: &LitInt,
    option: &str,
    range: std::ops::RangeInclusive<u32>,
    fix: &str,
    mistakes: &mut Mistakes,
) -> Option<u32> {
    let digits = literal.base10_digits();
    let number = digits.parse().ok().filter(|number| range.contains(number));
    if number.is_none() {
        let problem = match digits.parse::<u32>() {
            _ if digits.starts_with('-') => "cannot be negative",
            Ok(number) if number < *range.start() => "is too small",
            _ => "is too large",
        };
        mistakes.add(literal, format!("`{option}` {problem}: {}", text(literal)), fix);
    }
    number
}

pub(crate) fn checked_duration<T>(
    literal: &LitStr,
    option: &str,
    example: &str,
    read: impl FnOnce(&str) -> Result<T, duration::Problem>,
    mistakes: &mut Mistakes,
) -> Option<T> {
    match read(&literal.value()) {
        Ok(value) => Some(value),
        Err(problem) => {
            let (what, fix) = problem.message(option, &text(literal), example);
            mistakes.add(literal, what, fix);
            None
        }
    }
}

/// Checks everything about the function that a macro can see.
pub(crate) fn function(function: &Function, mistakes: &mut Mistakes) {
    qualifiers(function, mistakes);
    generics(function, mistakes);
    if let Some(returned) = function.returned() {
        result(returned, mistakes);
    }
    for argument in &function.arguments {
        match argument.source {
            Source::Supplied => supplied(argument, mistakes),
            Source::Key | Source::Whole(_) => payload(argument, mistakes),
        }
        for cfg in &argument.cfgs {
            let what = format!("a job's argument cannot depend on the build: `{}`", text(cfg));
            mistakes.add(
                cfg,
                what,
                "payload must mean the same to every build: take an `Option<T>`, or put it on the whole job",
            );
        }
    }
    keys(&function.arguments, mistakes);
    whole(&function.arguments, mistakes);
}

fn qualifiers(function: &Function, mistakes: &mut Mistakes) {
    let signature = &function.signature;
    if let Some(receiver) = &function.receiver {
        let at = match &receiver.kind {
            ReceiverKind::Reference(and, lifetime, mutability) => {
                let own = receiver.self_token;
                quote!(#and #lifetime #mutability #own)
            }
            _ => receiver.self_token.into_token_stream(),
        };
        let fix = "move it out of the `impl` and take what it needs: payload as arguments, the rest as `State<T>`";
        mistakes.add(&at, format!("a job is a function, not a method: `{}`", text(&at)), fix);
    }
    if let Some(constness) = &signature.constness {
        mistakes.add(constness, "a job cannot be `const`", "remove `const`");
    }
    if let Safety::Unsafe(unsafety) = &signature.safety {
        let fix = "remove `unsafe`: a worker cannot promise anything about a payload";
        mistakes.add(unsafety, "a job cannot be `unsafe`", fix);
    }
    if let Some(abi) = &signature.abi {
        mistakes.add(abi, "a job cannot be `extern`", format!("remove `{}`", text(abi)));
    }
    if let Some(variadic) = &signature.variadic {
        mistakes.add(variadic, "a job cannot be variadic", "take a `Vec<T>`");
    }
    if !function.has_body() {
        mistakes.add(&function.body, "a job needs a body", "`#[job]` goes on a function, not on what a trait asks for");
    }
}

fn generics(function: &Function, mistakes: &mut Mistakes) {
    let generics = &function.signature.generics;
    for parameter in &generics.params {
        match parameter {
            GenericParam::Lifetime(lifetime) => mistakes.add(
                lifetime,
                format!("a job cannot have lifetimes: `{}`", text(lifetime)),
                "its arguments are owned: `String` for `&str`, `Vec<T>` for `&[T]`",
            ),
            _ => mistakes.add(
                parameter,
                format!("a job cannot be generic: `{}`", text(parameter)),
                "write the type itself; the payload of a message must be of one type",
            ),
        }
    }
    if let Some(clause) = &generics.where_clause
        && generics.params.is_empty()
    {
        mistakes.add(clause, "a job cannot have a `where` clause", "remove it; the job's types are all known");
    }
}

fn result(returned: &Type, mistakes: &mut Mistakes) {
    if let Some(found) = ownership::impl_trait(returned) {
        let what = format!("the type of a job's result must be named: `{}`", text(&found));
        mistakes.add(found, what, "return `JobResult<T>` of a type that serializes");
    } else if let Some(borrow) = ownership::borrow(returned, Statics::Owned) {
        let what = format!("a job's result must own its data: `{}`", text(&borrow.at));
        mistakes.add(&borrow.at, what, format!("write `{}`", text(&borrow.owned)));
    }
}

fn supplied(argument: &Argument, mistakes: &mut Mistakes) {
    if let Some(marker) = &argument.supplied
        && last_segment(&argument.ty).is_some_and(|segment| segment.ident == "Payload")
    {
        mistakes.add(marker, "a `Payload` is not supplied: it is what the message holds", "remove `#[supplied]`");
    }
    for serde in &argument.serde {
        let what = format!("`{}` on an argument that is not payload", text(serde));
        mistakes.add(serde, what, "remove it; the worker supplies the argument");
    }
}

fn payload(argument: &Argument, mistakes: &mut Mistakes) {
    named(argument, mistakes);
    owned(argument, mistakes);
    for serde in &argument.serde {
        if matches!(argument.source, Source::Whole(_)) {
            let what = format!("`{}` on a `Payload`", text(serde));
            mistakes.add(serde, what, "put it on the type inside; a `Payload` has no key of its own");
        }
    }
    if let Some(skip) = SerdeFacts::of(&argument.serde).skip {
        let what = format!("an argument with `{}` does not reach the worker", text(&skip));
        mistakes.add(skip, what, "remove it; what the worker supplies is marked `#[supplied]`");
    }
    if let Some(segment) = last_segment(&argument.ty)
        && segment.ident == "State"
        && segment.arguments.is_none()
    {
        let name = argument.binding().map_or_else(|| "state".to_owned(), Ident::to_string);
        let fix = format!(
            "write `{name}: State<T>`; payload of a type of that name needs an alias, `type OrderState = State;`"
        );
        mistakes.add(segment, "`State` needs the type of the state", fix);
    }
}

/// An argument needs a name, since that is its key in the payload.
fn named(argument: &Argument, mistakes: &mut Mistakes) {
    let (pattern, ty) = (&argument.pattern, text(&argument.ty));
    let Some(binding) = argument.binding() else {
        let what = format!("an argument of a job needs a name: `{}`", text(pattern));
        let fix = match (&argument.source, pattern) {
            (Source::Whole(_), _) => format!("write `Payload(order): {ty}`, and take it apart in the body"),
            (_, Pat::Wild(_)) => {
                format!("write `_name: {ty}`; the leading underscore is not part of the payload's key")
            }
            _ => format!("write `name: {ty}`, and take it apart in the body"),
        };
        return mistakes.add(pattern, what, fix);
    };
    if field(binding).is_none() {
        let what = format!("an argument of a job needs a name: `{binding}`");
        let fix = "the leading underscore is not part of the payload's key, and without it there is no name";
        mistakes.add(binding, what, fix);
    }
}

/// An argument is decoded from a message, so it can neither borrow nor be of a type that nobody named.
fn owned(argument: &Argument, mistakes: &mut Mistakes) {
    if let Some(found) = ownership::impl_trait(&argument.ty) {
        let what = format!("the type of a job's argument must be named: `{}`", text(&found));
        let fix = "write the type that the message holds, such as `String`; `new` takes anything that converts into it";
        mistakes.add(found, what, fix);
    } else if let Some(borrow) = ownership::borrow(&argument.ty, Statics::Borrowed) {
        let what = format!("a job argument must own its data: `{}`", text(&borrow.at));
        let owned = text(&borrow.owned);
        let written = argument.binding().map_or_else(|| owned.clone(), |name| format!("{name}: {owned}"));
        let reason = match last_segment(&borrow.owned) {
            Some(segment) if segment.ident == "State" => "it is shared already",
            _ => "the payload is decoded from a message",
        };
        mistakes.add(&borrow.at, what, format!("write `{written}`; {reason}"));
    }
}

/// Two arguments under one key would be one.
fn keys(arguments: &[Argument], mistakes: &mut Mistakes) {
    let mut seen: Vec<String> = Vec::new();
    for argument in arguments.iter().filter(|argument| matches!(argument.source, Source::Key)) {
        let Some(binding) = argument.binding() else { continue };
        let Some(field) = field(binding) else { continue };
        let key = SerdeFacts::of(&argument.serde).key(&field);
        if seen.contains(&key) {
            let what = format!("two arguments have the key `{key}` in the payload");
            mistakes.add(binding, what, "rename one of them; a leading underscore is not part of the key");
        }
        seen.push(key);
    }
}

/// A `Payload` is the whole message, so nothing stands beside it.
fn whole(arguments: &[Argument], mistakes: &mut Mistakes) {
    let Some(first) = arguments.iter().find(|argument| matches!(argument.source, Source::Whole(_))) else { return };
    let whole = text(&first.ty);
    for other in arguments.iter().filter(|other| !std::ptr::eq(*other, first)) {
        let at: TokenStream = match &other.source {
            Source::Supplied => continue,
            Source::Whole(_) => other.ty.to_token_stream(),
            Source::Key => other.pattern.to_token_stream(),
        };
        let what = format!("`{}` beside `{whole}`, which is the whole payload", text(&at));
        let fix = "make it a field of that type, or replace the `Payload` by plain arguments";
        mistakes.add(at, what, fix);
    }
}
