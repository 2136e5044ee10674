//! `#[derive(Event)]`: the name, the exchange and the key of a type that is published.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{Data, DeriveInput, Fields, LitStr, Path, meta::ParseNestedMeta, parse_quote};

use crate::{
    check::checked_name,
    listening::{KEY_BYTES_MAX, Kind, kind},
    mistake::Mistakes,
    text::text,
};

const EXAMPLE: &str = r#"write `#[event(exchange = "events", key = "order.placed.{country}")]`"#;

const BY_HEADERS: &str = "implement `worker_core::Event` by hand, and publish with the headers to be chosen by";

/// What `#[event(…)]` says.
#[derive(Default)]
struct Options {
    exchange: Option<LitStr>,
    kind: Option<LitStr>,
    key: Option<LitStr>,
    name: Option<LitStr>,
    krate: Option<Path>,
}

/// The implementation, or what is wrong.
pub(crate) fn expanded(input: &DeriveInput, mistakes: &mut Mistakes) -> TokenStream {
    let options = options(input, mistakes);
    let fields = fields(input, mistakes);
    let Some(exchange) = &options.exchange else {
        mistakes.add(&input.ident, "an event needs an exchange", EXAMPLE);
        return TokenStream::new();
    };
    let exchange = checked_name(exchange, "exchange", mistakes);
    let kind = options.kind.as_ref().map_or(Some(Kind::Topic), |literal| kind(literal, BY_HEADERS, mistakes));
    let name = match &options.name {
        Some(literal) => checked_name(literal, "name", mistakes),
        None => Some(snake_case(&input.ident.to_string())),
    };
    let key = match &options.key {
        Some(literal) => key(literal, &fields, mistakes),
        // A fanout exchange looks at no key.
        None if kind == Some(Kind::Fanout) => Some((String::new(), Vec::new())),
        None => {
            mistakes.add(&input.ident, "an event needs a key to be chosen by", EXAMPLE);
            None
        }
    };
    let (Some(exchange), Some(kind), Some(name), Some((format, used))) = (exchange, kind, name, key) else {
        return TokenStream::new();
    };
    let core: Path = options.krate.unwrap_or_else(|| parse_quote!(::worker_core));
    let kind = Ident::new(kind.variant(), Span::call_site());
    let (ident, (generics, arguments, conditions)) = (&input.ident, input.generics.split_for_impl());
    quote! {
        #[automatically_derived]
        impl #generics #core::Event for #ident #arguments #conditions {
            const NAME: &'static str = #name;
            const EXCHANGE: &'static str = #exchange;
            const KIND: #core::exchange::ExchangeKind = #core::exchange::ExchangeKind::#kind;

            fn key(&self) -> ::std::string::String {
                ::std::format!(#format, #(#used = self.#used),*)
            }
        }
    }
}

fn options(input: &DeriveInput, mistakes: &mut Mistakes) -> Options {
    let mut options = Options::default();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("event")) {
        let read = attribute.parse_nested_meta(|meta| option(&meta, &mut options));
        if let Err(error) = read {
            mistakes.add_syntax(error);
        }
    }
    options
}

fn option(meta: &ParseNestedMeta<'_>, options: &mut Options) -> syn::Result<()> {
    let name = meta.path.to_token_stream().to_string();
    if name == "crate" {
        options.krate = Some(meta.value()?.parse()?);
        return Ok(());
    }
    let place = match &*name {
        "exchange" => &mut options.exchange,
        "kind" => &mut options.kind,
        "key" => &mut options.key,
        "name" => &mut options.name,
        _ => {
            return Err(meta.error(format!("unknown option `{name}`\nthere are `exchange`, `kind`, `key` and `name`")));
        }
    };
    if place.replace(meta.value()?.parse()?).is_some() {
        return Err(meta.error(format!("`{name}` is given twice\nkeep one of them")));
    }
    Ok(())
}

/// The names of the fields.
fn fields(input: &DeriveInput, mistakes: &mut Mistakes) -> Vec<Ident> {
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => fields.named.iter().filter_map(|field| field.ident.clone()).collect(),
            Fields::Unit | Fields::Unnamed(_) => Vec::new(),
        },
        _ => {
            let what = format!("only a struct can derive `Event`: `{}`", input.ident);
            mistakes.add(
                &input.ident,
                what,
                "implement `worker_core::Event` by hand: its `key` can look at the variant",
            );
            Vec::new()
        }
    }
}

/// The key as a format, and the fields in it.
fn key(literal: &LitStr, fields: &[Ident], mistakes: &mut Mistakes) -> Option<(String, Vec<Ident>)> {
    let (format, mut used) = (literal.value(), Vec::<Ident>::new());
    if format.len() > KEY_BYTES_MAX {
        let what = format!("`key` has {} bytes, which is too long: {}", format.len(), text(literal));
        mistakes.add(literal, what, "use 255 at most");
        return None;
    }
    let mut rest = &*format;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, behind) = after.split_once('}').unwrap_or((after, ""));
        if before.contains('}') || !after.contains('}') {
            break;
        }
        let Some(field) = fields.iter().find(|field| *field == inside) else {
            let there: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
            let fix = if there.is_empty() {
                "this type has no named field; write the key without `{`".to_owned()
            } else {
                format!("there is {}; implement `worker_core::Event` by hand for anything more", there.join(", "))
            };
            mistakes.add(literal, format!("`{{{inside}}}` is no field: {}", text(literal)), fix);
            return None;
        };
        if !used.contains(field) {
            used.push(field.clone());
        }
        rest = behind;
    }
    if rest.contains(['{', '}']) {
        let what = format!("`key` has a bracket without its other half: {}", text(literal));
        mistakes.add(literal, what, "a field is written `{country}`");
        return None;
    }
    Some((format, used))
}

/// `OrderPlaced` → `order_placed`, as serde has it.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (index, c) in name.trim_start_matches("r#").char_indices() {
        if c.is_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}
