//! Writes the payload type: what travels with a job of this function.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{LitStr, Path, Type, ext::IdentExt, spanned::Spanned};

use crate::{
    item::{Argument, Function, Source, last_segment},
    text::text,
    wire::{SerdeFacts, field},
};

/// What the payload of a job consists of.
pub(crate) struct Payload<'a> {
    function: &'a Function,
    private: &'a Path,
    fields: Vec<Field<'a>>,
    /// The one field is the payload itself, not a key of it.
    is_transparent: bool,
}

struct Field<'a> {
    argument: &'a Argument,
    name: Ident,
    ty: &'a Type,
}

impl<'a> Payload<'a> {
    pub(crate) fn of(function: &'a Function, private: &'a Path) -> Self {
        let arguments = &function.arguments;
        let fields = arguments.iter().filter_map(Field::of).collect();
        let is_transparent = arguments.iter().any(|argument| matches!(argument.source, Source::Whole(_)));
        Self { function, private, fields, is_transparent }
    }

    /// Asks of each field's type what a payload needs, where the type stands.
    pub(crate) fn checks(&self) -> TokenStream {
        let private = self.private;
        self.fields.iter().map(|Field { ty, .. }| quote_spanned!(ty.span()=> #private::argument::<#ty>();)).collect()
    }

    /// The type, with what serde derives for it.
    pub(crate) fn definition(&self) -> TokenStream {
        let (private, name, visibility) = (self.private, self.function.name(), &self.function.visibility);
        let docs = self.docs();
        let serde = LitStr::new(&text(quote!(#private::serde)), Span::call_site());
        let transparent = self.is_transparent.then(|| quote!(#[serde(transparent)]));
        let fields = self.fields.iter().map(|field| field.definition(self.function));
        quote! {
            #(#[doc = #docs])*
            #[derive(#private::serde::Serialize, #private::serde::Deserialize)]
            #[serde(crate = #serde)]
            #transparent
            #[allow(deprecated, non_camel_case_types, private_interfaces, unused_qualifications)]
            #visibility struct #name { #(#fields),* }
        }
    }

    /// The first line of the function's documentation, and what a reader of the
    /// payload must know. Not all of it: its examples would be tested twice.
    fn docs(&self) -> Vec<String> {
        let (name, summary) = (self.function.name().unraw(), self.function.summary());
        let wire = if self.is_transparent {
            format!("on the wire it is one `{}` and nothing around it.", self.whole())
        } else if self.fields.is_empty() {
            "on the wire it is `{}`, since the function takes none.".to_owned()
        } else {
            "on the wire it is a JSON object whose keys are the argument names. They are a wire format: renaming \
             one breaks the jobs that wait in a queue, and `#[serde(alias = \"old_name\")]` on the argument keeps \
             the old key readable."
                .to_owned()
        };
        let wire = format!(" The payload of the job function `{name}`: {wire}");
        if summary.is_empty() { vec![wire] } else { vec![format!(" {summary}"), String::new(), wire] }
    }

    /// Written out, since `derive` would demand of every field what only some can do:
    /// the bound is on each field's type, and its unused lifetime makes the compiler
    /// take it for a condition instead of an error.
    pub(crate) fn clone_and_debug(&self) -> TokenStream {
        let name = self.function.name();
        let shown = name.unraw().to_string();
        let (fields, types): (Vec<_>, Vec<_>) = self.fields.iter().map(|field| (&field.name, field.ty)).unzip();
        let keys = fields.iter().map(|field| field.unraw().to_string());
        quote! {
            #[automatically_derived]
            impl ::core::clone::Clone for #name
            where
                #(for<'field> #types: ::core::clone::Clone,)*
            {
                fn clone(&self) -> Self {
                    Self { #(#fields: ::core::clone::Clone::clone(&self.#fields)),* }
                }
            }

            #[automatically_derived]
            impl ::core::fmt::Debug for #name
            where
                #(for<'field> #types: ::core::fmt::Debug,)*
            {
                fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    f.debug_struct(#shown)#(.field(#keys, &self.#fields))*.finish()
                }
            }
        }
    }

    /// `new`, which is deprecated where the function is.
    pub(crate) fn constructor(&self) -> TokenStream {
        let Self { function, private, fields, .. } = self;
        let (name, visibility) = (function.name(), &function.visibility);
        let new = Ident::new("new", function.generated_span());
        let deprecated = function.attributes.iter().filter(|attribute| attribute.path().is_ident("deprecated"));
        let (parameters, values): (Vec<_>, Vec<_>) = fields.iter().map(Field::parameter).unzip();
        quote! {
            impl #name {
                /// Makes a job of these arguments, to be passed to `Client::enqueue`.
                #(#deprecated)*
                #[allow(clippy::too_many_arguments)]
                #visibility fn #new(#(#parameters),*) -> #private::Enqueue<Self> {
                    #private::Enqueue::new(Self { #(#values),* })
                }
            }
        }
    }

    /// What the command line is told about the payload.
    pub(crate) fn arguments(&self) -> TokenStream {
        let private = self.private;
        if self.is_transparent {
            let whole = self.whole();
            return quote!(#private::Arguments::Whole(#whole));
        }
        let arguments = self.fields.iter().filter_map(|Field { argument, name, ty }| {
            let facts = SerdeFacts::of(&argument.serde);
            let (key, type_text, required) = (facts.key(name), text(ty), facts.requires(ty));
            // A flattened argument has keys of its own, which only its type knows.
            (!facts.flatten)
                .then(|| quote!(#private::Argument { name: #key, type_text: #type_text, required: #required }))
        });
        quote!(#private::Arguments::Named(&[#(#arguments),*]))
    }

    /// The type in `Payload<…>`.
    fn whole(&self) -> String {
        self.fields.iter().map(|field| text(field.ty)).collect()
    }
}

impl<'a> Field<'a> {
    fn of(argument: &'a Argument) -> Option<Self> {
        let ty = match &argument.source {
            Source::Supplied => return None,
            Source::Key => &argument.ty,
            Source::Whole(inner) => inner,
        };
        // An argument without a name was refused before.
        let name = field(argument.binding()?)?;
        Some(Self { argument, name, ty })
    }

    /// The field, as visible as the function.
    fn definition(&self, function: &Function) -> TokenStream {
        let Self { argument: Argument { docs, serde, .. }, name, ty } = self;
        let visibility = &function.visibility;
        let docs = if docs.is_empty() {
            let line = format!(" The argument `{}`.", name.unraw());
            quote!(#[doc = #line])
        } else {
            quote!(#(#docs)*)
        };
        quote!(#docs #(#serde)* #visibility #name: #ty)
    }

    /// The field as an argument of `new`, and how the value gets into the field.
    ///
    /// Only text converts. On a number `impl Into` would leave the type of a
    /// literal open, and it would become an `i32`.
    fn parameter(&self) -> (TokenStream, TokenStream) {
        let Self { name, ty, .. } = self;
        let is_text = last_segment(ty).is_some_and(|segment| {
            segment.arguments.is_none() && (segment.ident == "String" || segment.ident == "PathBuf")
        });
        if is_text {
            (quote!(#name: impl ::core::convert::Into<#ty>), quote!(#name: ::core::convert::Into::into(#name)))
        } else {
            (quote!(#name: #ty), quote!(#name: #name))
        }
    }
}
