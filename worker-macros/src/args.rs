//! The options of `#[job(…)]`, parsed as far as their grammar goes.
//!
//! An option is `name = value` with a literal as its value. Each option keeps
//! the tokens it was written with, so that what is wrong with its value can be
//! shown there; whether a value makes sense is not asked here.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Expr, Lit, LitInt, LitStr, Path, Token, bracketed,
    ext::IdentExt,
    parse::{ParseStream, Parser},
    punctuated::Punctuated,
    token::Bracket,
};

use crate::{mistake::Mistakes, text::text};

/// The options that were given.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) aliases: Vec<LitStr>,
    pub(crate) backoff: Option<LitStr>,
    pub(crate) bind: Vec<LitStr>,
    pub(crate) bundle: Option<LitInt>,
    pub(crate) concurrency: Option<LitInt>,
    pub(crate) dead_letter_queue: Option<LitStr>,
    pub(crate) dead_letter_ttl: Option<LitStr>,
    pub(crate) kind: Option<LitStr>,
    pub(crate) krate: Option<Path>,
    pub(crate) max_priority: Option<LitInt>,
    pub(crate) max_retries: Option<LitInt>,
    pub(crate) name: Option<LitStr>,
    pub(crate) on: Option<LitStr>,
    pub(crate) priority: Option<LitInt>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) queue_type: Option<LitStr>,
    pub(crate) shards: Option<LitInt>,
    pub(crate) timeout: Option<LitStr>,
}

/// An option that there is.
struct Known {
    name: &'static str,
    /// A good use of it, for advice.
    example: &'static str,
    read: fn(&mut Args, &mut Value<'_>) -> syn::Result<()>,
}

/// Every option. `crate` is not among those that are listed to people: it is
/// for crates that re-export this one.
const OPTIONS: [Known; 18] = [
    Known {
        name: "aliases",
        example: r#"aliases = ["old_name"]"#,
        read: |args, value| value.names().map(|names| args.aliases = names),
    },
    Known {
        name: "backoff",
        example: r#"backoff = "2s..10m""#,
        read: |args, value| value.duration().map(|text| args.backoff = text),
    },
    Known {
        name: "bind",
        example: r#"bind = ["order.*"]"#,
        read: |args, value| value.names().map(|keys| args.bind = keys),
    },
    Known {
        name: "bundle",
        example: "bundle = 100",
        read: |args, value| value.number().map(|number| args.bundle = number),
    },
    Known {
        name: "concurrency",
        example: "concurrency = 2",
        read: |args, value| value.number().map(|number| args.concurrency = number),
    },
    Known {
        name: "dead_letter_queue",
        example: r#"dead_letter_queue = "orders_dead""#,
        read: |args, value| value.text().map(|text| args.dead_letter_queue = text),
    },
    Known {
        name: "dead_letter_ttl",
        example: r#"dead_letter_ttl = "7d""#,
        read: |args, value| value.duration().map(|text| args.dead_letter_ttl = text),
    },
    Known { name: "kind", example: r#"kind = "topic""#, read: |args, value| value.text().map(|text| args.kind = text) },
    Known {
        name: "max_priority",
        example: "max_priority = 10",
        read: |args, value| value.number().map(|number| args.max_priority = number),
    },
    Known {
        name: "max_retries",
        example: "max_retries = 8",
        read: |args, value| value.number().map(|number| args.max_retries = number),
    },
    Known {
        name: "name",
        example: r#"name = "send_welcome""#,
        read: |args, value| value.text().map(|text| args.name = text),
    },
    Known { name: "on", example: r#"on = "events""#, read: |args, value| value.text().map(|text| args.on = text) },
    Known {
        name: "priority",
        example: "priority = 9",
        read: |args, value| value.number().map(|number| args.priority = number),
    },
    Known {
        name: "queue",
        example: r#"queue = "emails""#,
        read: |args, value| value.text().map(|text| args.queue = text),
    },
    Known {
        name: "queue_type",
        example: r#"queue_type = "classic""#,
        read: |args, value| value.text().map(|text| args.queue_type = text),
    },
    Known {
        name: "shards",
        example: "shards = 4",
        read: |args, value| value.number().map(|number| args.shards = number),
    },
    Known {
        name: "timeout",
        example: r#"timeout = "30s""#,
        read: |args, value| value.duration().map(|text| args.timeout = text),
    },
    Known {
        name: "crate",
        example: "crate = my_crate::worker_core",
        read: |args, value| value.path().map(|path| args.krate = path),
    },
];

/// What people write who come from another framework, and what it is called here.
const ELSEWHERE: [(&str, &str); 30] = [
    ("attempts", MAX_ATTEMPTS),
    ("autoretry_for", "every error is retried; to give up at once return `JobError::discard(why)`"),
    ("batch", BUNDLE),
    ("batch_size", BUNDLE),
    ("binding_key", BIND),
    ("binding_keys", BIND),
    ("countdown", DELAY),
    ("dead_letter", DEAD_LETTER_QUEUE),
    ("default_retry_delay", r#"the pause between retries is `backoff = "5s"`"#),
    ("delay", DELAY),
    ("dlq", DEAD_LETTER_QUEUE),
    ("eta", DELAY),
    ("exchange", r#"write `on = "events"`: the exchange whose messages it runs for"#),
    ("exchange_type", r#"write `kind = "fanout"`, beside `on = "events"`"#),
    ("max_attempts", MAX_ATTEMPTS),
    ("max_concurrency", "write `concurrency = 2`: how many run at once in one worker"),
    ("max_retry", MAX_RETRIES),
    ("queue_name", r#"write `queue = "emails"`"#),
    ("retries", MAX_RETRIES),
    ("retry", MAX_RETRIES),
    ("retry_backoff", r#"the pause between retries is `backoff = "2s..10m"`: the first, and the longest"#),
    ("retry_delay", r#"the pause between retries is `backoff = "5s"`"#),
    ("retry_kwargs", MAX_RETRIES),
    (
        "routing_key",
        r#"write `queue = "emails"`; what an exchange sends is chosen by `on = "events", bind = ["order.*"]`"#,
    ),
    ("task_name", r#"write `name = "send_welcome"`"#),
    ("time_limit", r#"write `timeout = "30s"`"#),
    ("topic", r#"write `queue = "emails"`"#),
    ("tries", MAX_ATTEMPTS),
    ("wait", DELAY),
    ("x_max_priority", r#"write `max_priority = 10`, beside `queue_type = "classic"`"#),
];
const BUNDLE: &str = "write `bundle = 100`: how many jobs may travel in one message";
const BIND: &str = r#"write `bind = ["order.*"]`, beside `on = "events"`"#;
const DEAD_LETTER_QUEUE: &str =
    r#"write `dead_letter_queue = "orders_dead"`; without it dead letters are in the queue's name and `_dlq`"#;
const DELAY: &str =
    r#"the pause between retries is `backoff = "5s"`; one job starts later with `my_job::new(…).delay(minutes(5))`"#;
const MAX_ATTEMPTS: &str = "write `max_retries`, which does not count the first run: 3 attempts are `max_retries = 2`";
const MAX_RETRIES: &str = "write `max_retries = 3`: how often a failed job is tried again";

impl Args {
    /// Reads the tokens between the parentheses; each option is read on its own, so that one mistake hides no other.
    pub(crate) fn parse(tokens: TokenStream, mistakes: &mut Mistakes) -> Self {
        let (mut args, mut seen) = (Self::default(), Vec::new());
        for option in options(tokens, mistakes) {
            let read = |input: ParseStream<'_>| args.option(input, &mut seen, mistakes);
            if let Err(error) = read.parse2(option) {
                mistakes.add_syntax(error);
            }
        }
        args
    }

    /// Reads one option. `Err` is a mistake nobody thought of, in `syn`'s words.
    fn option(&mut self, input: ParseStream<'_>, seen: &mut Vec<Ident>, mistakes: &mut Mistakes) -> syn::Result<()> {
        let Some(name) = name(input, mistakes)? else { return Ok(()) };
        let Some(known) = OPTIONS.iter().find(|known| name == known.name) else {
            mistakes.add(&name, format!("unknown option `{name}`"), advice(&name.to_string()));
            return rest(input).map(drop);
        };
        if seen.contains(&name) {
            mistakes.add(&name, format!("`{name}` is given twice"), "keep one of them");
            return rest(input).map(drop);
        }
        seen.push(name.clone());

        if !input.peek(Token![=]) {
            let after = rest(input)?;
            let at = if after.is_empty() { name.to_token_stream() } else { after };
            mistakes.add(at, format!("`{name}` needs `=` and a value"), format!("write `{}`", known.example));
            return Ok(());
        }
        input.parse::<Token![=]>()?;
        if input.is_empty() {
            mistakes.add(&name, format!("`{name}` needs a value"), format!("write `{}`", known.example));
            return Ok(());
        }
        (known.read)(self, &mut Value { known, input, mistakes })?;
        let stray = rest(input)?;
        if !stray.is_empty() {
            let what = format!("nothing can follow the value of `{name}`: `{}`", text(&stray));
            mistakes.add(stray, what, "separate options with a comma");
        }
        Ok(())
    }
}

/// Splits the options at their commas; those inside of brackets belong to a value.
fn options(tokens: TokenStream, mistakes: &mut Mistakes) -> Vec<TokenStream> {
    let (mut options, mut option) = (Vec::new(), TokenStream::new());
    for token in tokens {
        match token {
            TokenTree::Punct(comma) if comma.as_char() == ',' && option.is_empty() => {
                mistakes.add(comma, "an option is missing before this `,`", "remove the comma");
            }
            TokenTree::Punct(comma) if comma.as_char() == ',' => options.push(std::mem::take(&mut option)),
            token => option.extend([token]),
        }
    }
    if !option.is_empty() {
        options.push(option);
    }
    options
}

/// Reads the name of an option; the mistake of writing only its value is met here.
fn name(input: ParseStream<'_>, mistakes: &mut Mistakes) -> syn::Result<Option<Ident>> {
    if input.peek(Ident::peek_any) && !input.peek2(Token![::]) {
        return input.call(Ident::parse_any).map(Some);
    }
    let stray = rest(input)?;
    let what = format!("expected `option = value`: `{}`", text(&stray));
    let fix = match syn::parse2::<Lit>(stray.clone()) {
        Ok(Lit::Str(value)) => format!("write `queue = {}`", text(value)),
        _ => known_options(),
    };
    mistakes.add(stray, what, fix);
    Ok(None)
}

/// What to write instead of an option that is not known.
fn advice(unknown: &str) -> String {
    if let Some((_, advice)) = ELSEWHERE.iter().find(|(name, _)| *name == unknown) {
        return (*advice).to_owned();
    }
    match nearest(unknown) {
        Some(option) => format!("did you mean `{option}`? {}", known_options()),
        None => known_options(),
    }
}

fn known_options() -> String {
    let listed: Vec<_> = OPTIONS.iter().map(|known| known.name).filter(|name| *name != "crate").collect();
    format!("options: {}", listed.join(", "))
}

/// The option that `unknown` is a misspelling of: at most a third of the longer of the two is wrong.
fn nearest(unknown: &str) -> Option<&'static str> {
    OPTIONS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&unknown.to_lowercase(), known.name), known.name))
        .filter(|(distance, name)| *distance <= name.len().max(unknown.len()) / 3)
        .min()
        .map(|(_, name)| name)
}

/// The value of one option, not read yet.
struct Value<'a> {
    known: &'static Known,
    input: ParseStream<'a>,
    mistakes: &'a mut Mistakes,
}

impl Value<'_> {
    fn text(&mut self) -> syn::Result<Option<LitStr>> {
        match self.literal()? {
            Some(Lit::Str(text)) => Ok(Some(text)),
            Some(other) => Ok(self.refuse(&other, "must be a string literal")),
            None => self.refuse_rest("must be a string literal"),
        }
    }

    fn duration(&mut self) -> syn::Result<Option<LitStr>> {
        match self.literal()? {
            Some(Lit::Str(text)) => Ok(Some(text)),
            Some(number @ (Lit::Int(_) | Lit::Float(_))) => Ok(self.refuse(&number, "needs a unit, in quotes")),
            Some(other) => Ok(self.refuse(&other, "must be a string literal")),
            None => self.refuse_rest("must be a string literal"),
        }
    }

    fn number(&mut self) -> syn::Result<Option<LitInt>> {
        match self.literal()? {
            Some(Lit::Int(number)) => Ok(Some(number)),
            Some(other) => Ok(self.refuse(&other, "must be a whole number")),
            None => self.refuse_rest("must be a whole number, as a literal"),
        }
    }

    fn names(&mut self) -> syn::Result<Vec<LitStr>> {
        if !self.input.peek(Bracket) {
            let problem = "must be a list of string literals";
            let refused = match self.literal()? {
                Some(literal) => self.refuse(&literal, problem),
                None => self.refuse_rest(problem)?,
            };
            return Ok(refused.unwrap_or_default());
        }
        let content;
        bracketed!(content in self.input);
        let names = Punctuated::<Expr, Token![,]>::parse_terminated(&content)?;
        Ok(names.into_iter().filter_map(|name| self.item(&name)).collect())
    }

    fn item(&mut self, item: &Expr) -> Option<LitStr> {
        let literal = syn::parse2(item.to_token_stream()).ok();
        if literal.is_none() {
            let one = if self.known.name == "aliases" { "an alias" } else { "a key" };
            let what = format!("{one} must be a string literal: `{}`", text(item));
            self.mistakes.add(item, what, format!("write `{}`", self.known.example));
        }
        literal
    }

    fn path(&mut self) -> syn::Result<Option<Path>> {
        match self.literal()? {
            Some(literal) => Ok(self.refuse(&literal, "must be a path, without quotes")),
            None => self.input.call(Path::parse_mod_style).map(Some),
        }
    }

    /// The literal that stands here, if any; `-` belongs to a number.
    fn literal(&self) -> syn::Result<Option<Lit>> {
        let here = self.input.peek(Lit) || self.input.peek(Token![-]) && self.input.peek2(Lit);
        if here { self.input.parse().map(Some) } else { Ok(None) }
    }

    fn refuse<T>(&mut self, value: &Lit, problem: &str) -> Option<T> {
        let what = format!("`{}` {problem}: {}", self.known.name, text(value));
        self.mistakes.add(value, what, format!("write `{}`", self.known.example));
        None
    }

    /// Refuses everything that is left of the option.
    fn refuse_rest<T>(&mut self, problem: &str) -> syn::Result<Option<T>> {
        let value = rest(self.input)?;
        let what = format!("`{}` {problem}: `{}`", self.known.name, text(&value));
        self.mistakes.add(value, what, format!("write `{}`; the macro cannot read constants", self.known.example));
        Ok(None)
    }
}

fn rest(input: ParseStream<'_>) -> syn::Result<TokenStream> {
    input.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &str) -> (Args, Vec<String>) {
        let mut mistakes = Mistakes::default();
        let args = Args::parse(options.parse().unwrap(), &mut mistakes);
        (args, mistakes.texts())
    }

    #[test]
    fn a_misspelt_option_is_recognised_and_a_strange_one_is_not_guessed() {
        let cases = [
            ("max_retires", Some("max_retries")),
            ("maxretries", Some("max_retries")),
            ("Queue", Some("queue")),
            ("queues", Some("queue")),
            ("time_out", Some("timeout")),
            ("alias", Some("aliases")),
            ("prio", None),
            ("nmae", Some("name")),
            ("colour", None),
            ("x", None),
        ];
        for (unknown, option) in cases {
            assert_eq!(nearest(unknown), option, "{unknown}");
        }
    }

    #[test]
    fn every_option_is_its_own_nearest_and_its_example_is_accepted() {
        for Known { name, example, .. } in OPTIONS {
            assert_eq!(nearest(name), Some(name));
            let (_, mistakes) = parsed(example);
            assert!(mistakes.is_empty(), "{example}: {mistakes:?}");
        }
    }

    #[test]
    fn no_word_of_another_framework_is_an_option_here() {
        assert!(ELSEWHERE.iter().all(|(name, _)| OPTIONS.iter().all(|known| known.name != *name)));
        assert!(ELSEWHERE.is_sorted(), "so that a second entry is noticed");
    }

    #[test]
    fn one_mistake_hides_no_other() {
        let (args, mistakes) = parsed("queue = 7, quue, name = \"n\", , 5, priority = 1 2, max_retries = 3,");
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
        assert!(args.name.is_some() && args.max_retries.is_some() && args.queue.is_none());
    }
}
