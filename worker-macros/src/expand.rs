//! Writes everything that makes the function a job.

use proc_macro2::{Group, Ident, Literal, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Path, Type, parse_quote, spanned::Spanned};

use crate::{
    check::Options,
    item::{Function, Source},
    listening::Listening,
    payload::Payload,
    queue::Asked,
    wire::field,
};

/// Where the generated code finds what it names: `__private` of `worker_core`, or of what `crate = …` says.
pub(crate) fn private(krate: Option<&Path>) -> Path {
    match krate {
        Some(krate) => parse_quote!(#krate::__private),
        None => parse_quote!(::worker_core::__private),
    }
}

/// The function as it was, and beside it what makes it a job.
///
/// The payload type is last, since what `derive` says of a mistake that the
/// checks have met already is better read after it.
pub(crate) fn job(function: &Function, options: &Options, private: &Path) -> TokenStream {
    let unchanged = function.unchanged();
    let payload = Payload::of(function, private);
    let (checks, definition) = (payload.checks(), payload.definition());
    let (constructor, clone_and_debug) = (payload.constructor(), payload.clone_and_debug());
    let job = Job { function, options, private };
    let (impl_job, supplies, impl_handler) = (job.impl_job(), job.supplies(), job.impl_handler(&payload));
    let name = function.name();
    quote! {
        #unchanged

        #[allow(deprecated, unused_qualifications)]
        const _: () = {
            #checks
            #constructor
            #clone_and_debug
            #impl_job
            #supplies
            #impl_handler

            #private::inventory::submit! {
                #private::Registration::new::<#name>(::core::file!(), ::core::line!())
            }
        };

        #definition
    }
}

struct Job<'a> {
    function: &'a Function,
    options: &'a Options,
    private: &'a Path,
}

impl Job<'_> {
    fn impl_job(&self) -> TokenStream {
        let Self { function, options, private } = self;
        let (name, job_name) = (function.name(), &options.name);
        let queue = options.queue.iter();
        let unit: Type = parse_quote!(());
        let returned = function.returned().unwrap_or(&unit);
        let returned = quote_spanned!(returned.span()=> type Return = #returned;);
        let options = self.options();
        quote! {
            #[automatically_derived]
            impl #private::Job for #name {
                const NAME: &'static str = #job_name;
                #(const QUEUE: &'static str = #queue;)*
                const OPTIONS: #private::JobOptions = #options;
                #returned
            }
        }
    }

    /// The options as a constant. What was not given is taken from the defaults
    /// of `worker_core`, which are not repeated here.
    fn options(&self) -> TokenStream {
        let Self { options, private, .. } = self;
        let retry = (options.max_retries.is_some() || options.backoff.is_some()).then(|| self.retry_policy());
        let retry = retry.into_iter();
        let timeout = options.timeout_ms.map(millis).into_iter();
        let priority = options.priority.map(Literal::u32_unsuffixed).into_iter();
        let queue = self.queue();
        let bundle = options.bundle.map(Literal::u32_unsuffixed).into_iter();
        let concurrency = options.concurrency.map(Literal::u32_unsuffixed).into_iter();
        let aliases = &options.aliases;
        let aliases = (!aliases.is_empty()).then(|| quote!(.aliases(&[#(#aliases),*])));
        let on = options.on.as_ref().map(|Listening { exchange, kind, keys }| {
            let kind = format_ident!("{}", kind.variant());
            quote!(.on(#private::On::new(#exchange, #private::ExchangeKind::#kind, &[#(#keys),*])))
        });
        quote! {
            #private::JobOptions::DEFAULT
                #(.retry(#retry))*
                #(.timeout(#timeout))*
                #(.priority(#private::priority(#priority)))*
                #queue
                #(.bundle(#private::bundle(#bundle)))*
                #(.concurrency(#private::concurrency(#concurrency)))*
                #aliases
                #on
        }
    }

    /// What the job asks of its queue.
    fn queue(&self) -> TokenStream {
        let Self { options, private, .. } = self;
        let Asked { queue_type, max_priority, dead_letter_queue, dead_letter_ttl_ms, shards } = &options.asked;
        let queue_type = queue_type.map(|queue_type| {
            let variant = format_ident!("{}", queue_type.variant());
            quote!(.queue_type(#private::QueueType::#variant))
        });
        let max_priority = max_priority.map(|max| {
            let max = Literal::u32_unsuffixed(max);
            quote!(.max_priority(#private::priority(#max)))
        });
        let dead_letter_queue = dead_letter_queue.as_ref().map(|name| quote!(.dead_letter_queue(#name)));
        let dead_letter_ttl = dead_letter_ttl_ms.map(|ms| {
            let ttl = millis(ms);
            quote!(.dead_letter_ttl(#ttl))
        });
        let shards = shards.map(|shards| {
            let shards = Literal::u32_unsuffixed(shards);
            quote!(.shards(#private::shards(#shards)))
        });
        quote!(#queue_type #max_priority #dead_letter_queue #dead_letter_ttl #shards)
    }

    fn retry_policy(&self) -> TokenStream {
        let Self { options, private, .. } = self;
        let default = quote!(#private::RetryPolicy::DEFAULT);
        let max_retries = or_default(options.max_retries, &quote!(#default.max_retries()));
        let base = options.backoff.map(|backoff| millis(backoff.base_ms));
        let base = or_default(base, &quote!(#default.base()));
        // A cap below the base is raised to it by `RetryPolicy::new`.
        let cap = options.backoff.and_then(|backoff| backoff.cap_ms).map(millis);
        let cap = or_default(cap, &quote!(#default.cap()));
        quote!(#private::RetryPolicy::new(#max_retries, #base, #cap))
    }

    /// How each supplied argument is had. A constant for each, so that a type which
    /// cannot be supplied is one error, where the type stands.
    fn supplies(&self) -> TokenStream {
        let private = self.private;
        self.supplied()
            .map(
                |(supply, ty)| quote_spanned!(ty.span()=> const #supply: #private::Supply<#ty> = #private::supplied::<#ty>();),
            )
            .collect()
    }

    /// The supplied arguments: the constant of each, and its type.
    fn supplied(&self) -> impl Iterator<Item = (Ident, &Type)> {
        let arguments = self.function.arguments.iter().enumerate();
        arguments
            .filter(|(_, argument)| matches!(argument.source, Source::Supplied))
            .map(|(index, argument)| (supply(index), &argument.ty))
    }

    fn impl_handler(&self, payload: &Payload<'_>) -> TokenStream {
        let Self { function, private, .. } = self;
        let (name, summary, arguments) = (function.name(), function.summary(), payload.arguments());
        let blocking = (!function.is_async()).then(|| {
            quote!(
                const BLOCKING: bool = true;
            )
        });
        let supplies: Vec<_> = self.supplied().map(|(supply, _)| supply).collect();
        let requirements = (!supplies.is_empty()).then(|| {
            quote! {
                fn requirements() -> ::std::vec::Vec<#private::Requirement> {
                    [#((#supplies.requirements)()),*].concat()
                }
            }
        });
        let run = self.run();
        quote! {
            #[automatically_derived]
            impl #private::Handler for #name {
                #blocking
                const ARGUMENTS: #private::Arguments = #arguments;
                const SUMMARY: &'static str = #summary;
                #requirements
                #run
            }
        }
    }

    /// Calls the function. No argument becomes a local variable, or one that is
    /// named like the job would hide the function.
    fn run(&self) -> TokenStream {
        let Self { function, private, .. } = self;
        // Of the macro's own scope, so that it hides no function called `cx`.
        let cx = Ident::new("cx", Span::mixed_site());
        let call = self.call(&cx);
        let cx = if self.supplied().next().is_some() { cx.into_token_stream() } else { quote!(_) };
        // Where the function's name stands, so that what is wrong with its future is shown there.
        let span = function.generated_span();
        let result = respanned(quote!(#private::JobResult<Self::Return>), span);
        if function.is_async() {
            quote_spanned! {span=>
                async fn run(self, #cx: #private::Context) -> #result {
                    ::core::result::Result::Ok(#call.await)
                }
            }
        } else {
            quote_spanned! {span=>
                async fn run(self, #cx: #private::Context) -> #result {
                    #private::blocking(move || -> #result { ::core::result::Result::Ok(#call) }).await
                }
            }
        }
    }

    fn call(&self, cx: &Ident) -> TokenStream {
        let Self { function, private, .. } = self;
        let name = function.name();
        let values = function.arguments.iter().enumerate().map(|(index, argument)| {
            let field = argument.binding().and_then(field);
            match argument.source {
                Source::Key => quote!(self.#field),
                Source::Whole(_) => quote!(#private::Payload(self.#field)),
                Source::Supplied => {
                    let supply = supply(index);
                    quote!((#supply.supply)(&#cx)?)
                }
            }
        });
        quote!(#name(#(#values),*))
    }
}

/// The constant that supplies the argument at `index`.
fn supply(index: usize) -> Ident {
    format_ident!("__SUPPLY_{index}")
}

fn millis(ms: u64) -> TokenStream {
    quote!(::core::time::Duration::from_millis(#ms))
}

fn or_default(given: Option<impl ToTokens>, default: &TokenStream) -> TokenStream {
    given.map_or_else(|| default.clone(), ToTokens::into_token_stream)
}

fn respanned(tokens: TokenStream, span: Span) -> TokenStream {
    let respan = |mut token: TokenTree| {
        if let TokenTree::Group(group) = &token {
            token = Group::new(group.delimiter(), respanned(group.stream(), span)).into();
        }
        token.set_span(span);
        token
    };
    tokens.into_iter().map(respan).collect()
}
