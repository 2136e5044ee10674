//! Which part of a type is borrowed, and how the type would be written if it were not.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{GenericArgument, Lifetime, PathArguments, Type, TypeReference, parse_quote};

use crate::item::last_segment;

/// A borrow inside of a type.
pub(crate) struct Borrow {
    /// The reference or the lifetime.
    pub(crate) at: TokenStream,
    /// The whole type without any borrow.
    pub(crate) owned: Type,
}

/// Whether `'static` is owned enough: a result is only written, while an argument is read from a message.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Statics {
    Owned,
    Borrowed,
}

/// Finds the first borrow in `ty`.
pub(crate) fn borrow(ty: &Type, statics: Statics) -> Option<Borrow> {
    let mut owned = ty.clone();
    let mut at = None;
    make_owned(&mut owned, statics, &mut at);
    at.map(|at| Borrow { at, owned })
}

fn make_owned(ty: &mut Type, statics: Statics, first: &mut Option<TokenStream>) {
    if let Type::Reference(reference) = ty {
        if statics == Statics::Owned && reference.lifetime.as_ref().is_some_and(is_static) {
            return;
        }
        first.get_or_insert_with(|| reference.to_token_stream());
        let mut owned = owned_referent(reference);
        make_owned(&mut owned, statics, first);
        *ty = owned;
        return;
    }
    for lifetime in lifetimes(ty).into_iter().filter(|lifetime| !is_static(lifetime)) {
        first.get_or_insert_with(|| lifetime.to_token_stream());
        *lifetime = parse_quote!('static);
    }
    for part in parts(ty) {
        make_owned(part, statics, first);
    }
}

fn is_static(lifetime: &Lifetime) -> bool {
    lifetime.ident == "static"
}

/// What owns that which the reference points to.
fn owned_referent(reference: &TypeReference) -> Type {
    let referent = &*reference.elem;
    if let Type::Slice(slice) = referent {
        let element = &slice.elem;
        return parse_quote!(Vec<#element>);
    }
    let name = last_segment(referent).map(|segment| segment.ident.to_string());
    match name.as_deref() {
        Some("str") => parse_quote!(String),
        Some("Path") => parse_quote!(PathBuf),
        Some("OsStr") => parse_quote!(OsString),
        _ => referent.clone(),
    }
}

/// The first `impl Trait` in `ty`.
pub(crate) fn impl_trait(ty: &Type) -> Option<TokenStream> {
    if let Type::ImplTrait(found) = ty {
        return Some(quote!(#found));
    }
    parts(&mut ty.clone()).into_iter().find_map(|part| impl_trait(part))
}

/// The types that `ty` directly consists of.
fn parts(ty: &mut Type) -> Vec<&mut Type> {
    match ty {
        Type::Array(array) => vec![&mut array.elem],
        Type::Group(group) => vec![&mut group.elem],
        Type::Paren(paren) => vec![&mut paren.elem],
        Type::Slice(slice) => vec![&mut slice.elem],
        Type::Tuple(tuple) => tuple.elems.iter_mut().collect(),
        Type::Path(_) => generic_arguments(ty)
            .into_iter()
            .filter_map(|argument| match argument {
                GenericArgument::Type(part) => Some(part),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn lifetimes(ty: &mut Type) -> Vec<&mut Lifetime> {
    let arguments = generic_arguments(ty).into_iter();
    arguments
        .filter_map(|argument| match argument {
            GenericArgument::Lifetime(lifetime) => Some(lifetime),
            _ => None,
        })
        .collect()
}

fn generic_arguments(ty: &mut Type) -> Vec<&mut GenericArgument> {
    let Type::Path(path) = ty else { return Vec::new() };
    let segments = path.path.segments.iter_mut();
    segments
        .flat_map(|segment| match &mut segment.arguments {
            PathArguments::AngleBracketed(arguments) => arguments.args.iter_mut().collect(),
            _ => Vec::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::text;

    fn advice(source: &str, statics: Statics) -> Option<(String, String)> {
        let ty = syn::parse_str(source).unwrap();
        borrow(&ty, statics).map(|borrow| (text(borrow.at), text(borrow.owned)))
    }

    #[test]
    fn the_borrowed_part_is_found_and_the_whole_type_is_given_back_owned() {
        let cases = [
            ("&str", "&str", "String"),
            ("&'static str", "&'static str", "String"),
            ("&[u8]", "&[u8]", "Vec<u8>"),
            ("&[&str]", "&[&str]", "Vec<String>"),
            ("&mut Order", "&mut Order", "Order"),
            ("&std::path::Path", "&std::path::Path", "PathBuf"),
            ("Option<&str>", "&str", "Option<String>"),
            ("Vec<(u8, &str)>", "&str", "Vec<(u8, String)>"),
            ("HashMap<u8, [&Order; 2]>", "&Order", "HashMap<u8, [Order; 2]>"),
            ("Cow<'_, str>", "'_", "Cow<'static, str>"),
            ("&State<Mailer>", "&State<Mailer>", "State<Mailer>"),
        ];
        for (source, at, owned) in cases {
            assert_eq!(advice(source, Statics::Borrowed), Some((at.into(), owned.into())), "{source}");
        }
    }

    #[test]
    fn what_is_owned_is_left_alone() {
        for source in ["u64", "Vec<Option<String>>", "Cow<'static, str>", "[u8; A & B]", "(u8, Box<[u8]>)"] {
            assert_eq!(advice(source, Statics::Borrowed), None, "{source}");
        }
        assert_eq!(advice("Result<&'static str, E>", Statics::Owned), None);
        assert!(advice("Result<&str, E>", Statics::Owned).is_some());
    }

    #[test]
    fn impl_trait_is_found_at_any_depth() {
        let found = |source| impl_trait(&syn::parse_str(source).unwrap()).map(text);
        assert_eq!(found("impl Into<String>").as_deref(), Some("impl Into<String>"));
        assert_eq!(found("Vec<(u8, impl Copy)>").as_deref(), Some("impl Copy"));
        assert_eq!(found("Vec<u8>"), None);
    }
}
