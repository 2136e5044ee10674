//! What an argument is called in the payload, and whether it must be there.

use proc_macro2::Ident;
use syn::{
    Attribute, Expr, LitStr, Path, Token, Type, ext::IdentExt, meta::ParseNestedMeta, parse::Parser, token::Paren,
};

use crate::item::last_segment;

/// The field that holds an argument: its name without the leading underscore,
/// which only says that the function does not use it. `None` if that is no name.
pub(crate) fn field(binding: &Ident) -> Option<Ident> {
    let name = binding.unraw().to_string();
    let Some(stripped) = name.strip_prefix('_') else { return Some(binding.clone()) };
    if syn::parse_str::<Ident>(stripped).is_ok() {
        return Some(Ident::new(stripped, binding.span()));
    }
    // What is left is a keyword, such as `type` of `_type`, or no name at all.
    let is_keyword = Ident::parse_any.parse_str(stripped).is_ok();
    let can_be_raw = is_keyword && !["_", "self", "Self", "super", "crate"].contains(&stripped);
    can_be_raw.then(|| Ident::new_raw(stripped, binding.span()))
}

/// What `#[serde(…)]` on an argument says that matters here; the rest is serde's to judge.
#[derive(Default)]
pub(crate) struct SerdeFacts {
    rename: Option<String>,
    has_default: bool,
    pub(crate) flatten: bool,
    /// The option that keeps the argument out of the payload, if any.
    pub(crate) skip: Option<Path>,
}

impl SerdeFacts {
    pub(crate) fn of(attributes: &[Attribute]) -> Self {
        let mut facts = Self::default();
        for attribute in attributes {
            // What cannot be parsed here reaches serde, which says so in its own words.
            attribute.parse_nested_meta(|meta| facts.read(&meta)).unwrap_or_default();
        }
        facts
    }

    fn read(&mut self, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
        let name = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
        match name.as_str() {
            "default" => self.has_default = true,
            "flatten" => self.flatten = true,
            "skip" | "skip_serializing" | "skip_deserializing" => self.skip = Some(meta.path.clone()),
            "rename" if meta.input.peek(Token![=]) => {
                self.rename = Some(meta.value()?.parse::<LitStr>()?.value());
            }
            "rename" => meta.parse_nested_meta(|direction| {
                let key = direction.value()?.parse::<LitStr>()?.value();
                // What a worker reads is what anyone who enqueues must write.
                if direction.path.is_ident("deserialize") {
                    self.rename = Some(key);
                }
                Ok(())
            })?,
            _ => {}
        }
        if meta.input.peek(Token![=]) {
            meta.value()?.parse::<Expr>()?;
        } else if meta.input.peek(Paren) {
            meta.input.parse::<proc_macro2::TokenTree>()?;
        }
        Ok(())
    }

    /// The argument's key in the payload.
    pub(crate) fn key(&self, field: &Ident) -> String {
        self.rename.clone().unwrap_or_else(|| field.unraw().to_string())
    }

    /// Whether a payload without the key is refused.
    pub(crate) fn requires(&self, ty: &Type) -> bool {
        !self.has_default && last_segment(ty).is_none_or(|segment| segment.ident != "Option")
    }
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;
    use syn::parse_quote;

    use super::*;

    fn field_of(binding: &str) -> Option<String> {
        field(&Ident::parse_any.parse_str(binding).unwrap()).map(|field| field.to_string())
    }

    #[test]
    fn one_leading_underscore_is_not_part_of_the_name() {
        let cases = [
            ("user_id", Some("user_id")),
            ("_user_id", Some("user_id")),
            ("__id", Some("_id")),
            ("_type", Some("r#type")),
            ("r#type", Some("r#type")),
            ("__", None),
            ("_1", None),
            ("_self", None),
        ];
        for (binding, field) in cases {
            assert_eq!(field_of(binding).as_deref(), field, "{binding}");
        }
    }

    #[test]
    fn serde_attributes_are_read_as_far_as_they_matter() {
        let key = |attribute: Attribute| {
            let field = Ident::new("id", Span::call_site());
            let facts = SerdeFacts::of(&[attribute]);
            (facts.key(&field), facts.requires(&parse_quote!(u64)))
        };
        assert_eq!(key(parse_quote!(#[serde(rename = "userId")])), ("userId".into(), true));
        assert_eq!(
            key(parse_quote!(#[serde(alias = "uid", rename(deserialize = "in", serialize = "out"))])),
            ("in".into(), true)
        );
        assert_eq!(key(parse_quote!(#[serde(with = "hex", default = "zero")])), ("id".into(), false));
        assert_eq!(key(parse_quote!(#[serde(default)])), ("id".into(), false));
        assert_eq!(key(parse_quote!(#[serde(bound(serialize = "T: X"), rename = "a")])), ("a".into(), true));
    }

    #[test]
    fn an_option_is_not_required_wherever_it_is_written() {
        let required = |ty: Type| SerdeFacts::default().requires(&ty);
        assert!(required(parse_quote!(u64)) && required(parse_quote!(Vec<Option<u8>>)));
        assert!(!required(parse_quote!(Option<u8>)) && !required(parse_quote!(std::option::Option<u8>)));
    }
}
