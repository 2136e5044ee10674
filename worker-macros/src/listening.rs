//! `on`, `bind` and `kind`: the checks of what a job runs for beside its own queue.

use syn::LitStr;

use crate::{args::Args, check::checked_name, mistake::Mistakes, text::text};

/// The most bytes of a key: AMQP's short string.
pub(crate) const KEY_BYTES_MAX: usize = 255;

/// An exchange and the keys of what to take from it.
pub(crate) struct Listening {
    pub(crate) exchange: String,
    pub(crate) kind: Kind,
    pub(crate) keys: Vec<String>,
}

/// How the exchange chooses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct,
    Fanout,
    Topic,
}

impl Kind {
    /// The variant of `ExchangeKind`.
    pub(crate) const fn variant(self) -> &'static str {
        match self {
            Self::Direct => "Direct",
            Self::Fanout => "Fanout",
            Self::Topic => "Topic",
        }
    }
}

/// Checks the three together.
pub(crate) fn listening(args: &Args, mistakes: &mut Mistakes) -> Option<Listening> {
    let Some(on) = &args.on else {
        let alone = args.bind.iter().map(|key| (key, "bind")).chain(args.kind.iter().map(|kind| (kind, "kind"))).next();
        if let Some((literal, option)) = alone {
            let what = format!("`{option}` needs an exchange: {}", text(literal));
            mistakes.add(literal, what, "name it: `on = \"events\"`");
        }
        return None;
    };
    let kind = match &args.kind {
        None => Kind::Topic,
        Some(literal) => {
            kind(literal, "bind the job's queue by `Client::declare`: a headers exchange sends by no key", mistakes)?
        }
    };
    let keys: Vec<_> = args.bind.iter().filter_map(|literal| key(literal, kind, mistakes)).collect();
    match (kind, args.bind.first()) {
        (Kind::Direct, None) => {
            let what = format!("a direct exchange sends by key, and none is given: {}", text(on));
            mistakes.add(on, what, "say which: `bind = [\"error\"]`");
            return None;
        }
        (Kind::Fanout, Some(first)) => {
            let what = format!("a fanout exchange sends everything, whatever the key: {}", text(first));
            mistakes.add(first, what, "remove `bind`, or write `kind = \"topic\"`");
            return None;
        }
        _ => {}
    }
    Some(Listening { exchange: checked_name(on, "on", mistakes)?, kind, keys })
}

/// The kind; `headers` is the advice for the one that has no keys.
pub(crate) fn kind(literal: &LitStr, headers: &str, mistakes: &mut Mistakes) -> Option<Kind> {
    let fix = match &*literal.value() {
        "direct" => return Some(Kind::Direct),
        "fanout" => return Some(Kind::Fanout),
        "topic" => return Some(Kind::Topic),
        "headers" => headers,
        _ => "write `direct`, `fanout` or `topic`, which is the default",
    };
    mistakes.add(literal, format!("`kind` is none that can be bound here: {}", text(literal)), fix);
    None
}

fn key(literal: &LitStr, kind: Kind, mistakes: &mut Mistakes) -> Option<String> {
    let key = literal.value();
    if key.len() > KEY_BYTES_MAX {
        let what = format!("a key has {} bytes, which is too long: {}", key.len(), text(literal));
        mistakes.add(literal, what, "use 255 at most");
        return None;
    }
    let half = |word: &&str| word.len() > 1 && word.contains(['*', '#']);
    if kind == Kind::Topic
        && let Some(word) = key.split('.').find(half)
    {
        let what = format!("`{word}` is taken as it is written, `*` and `#` stand for whole words: {}", text(literal));
        mistakes.add(literal, what, "put a dot between: `order.*` is one word after `order`, `order.#` any number");
        return None;
    }
    Some(key)
}
