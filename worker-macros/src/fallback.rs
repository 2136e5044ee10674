//! What stands in for a job that could not be made, so that its mistakes are the only errors.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Path, ext::IdentExt};

use crate::{
    item::{Function, Source},
    ownership::{self, Statics},
    text::text,
};

/// The function as it was, and beside it a job that type-checks where the real one would be used.
pub(crate) fn job(function: &Function, private: &Path) -> TokenStream {
    let unchanged = function.unchanged();
    if function.receiver.is_some() || !function.has_body() {
        // It stands in an `impl` or a `trait`, where no type can be written.
        return unchanged;
    }
    let stub = stub(function, private);
    quote!(#unchanged #stub)
}

/// The types of the arguments may be what is wrong, so `new` takes anything and there are no fields.
fn stub(function: &Function, private: &Path) -> TokenStream {
    let (name, visibility) = (function.name(), &function.visibility);
    let job_name = name.unraw().to_string();
    let serde = text(quote!(#private::serde));
    let payload = function.arguments.iter().filter(|argument| !matches!(argument.source, Source::Supplied));
    let anything = payload.map(|_| quote!(_: impl ::core::marker::Sized));
    let returned = function
        .returned()
        .filter(|ty| ownership::impl_trait(ty).is_none() && ownership::borrow(ty, Statics::Owned).is_none())
        .filter(|_| function.signature.generics.params.is_empty())
        .map_or_else(|| quote!(()), |ty| quote!(#ty));
    quote! {
        #[derive(::core::clone::Clone, ::core::fmt::Debug, #private::serde::Serialize, #private::serde::Deserialize)]
        #[serde(crate = #serde)]
        #[allow(non_camel_case_types)]
        #visibility struct #name {}

        const _: () = {
            impl #name {
                #visibility fn new(#(#anything),*) -> #private::Enqueue<Self> {
                    #private::Enqueue::new(Self {})
                }
            }

            impl #private::Job for #name {
                const NAME: &'static str = #job_name;
                type Return = #returned;
            }

            impl #private::Handler for #name {
                async fn run(self, _: #private::Context) -> #private::JobResult<Self::Return> {
                    ::core::unreachable!()
                }
            }
        };
    }
}
