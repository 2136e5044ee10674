//! The function that `#[job]` stands on, taken apart.
//!
//! The body is never parsed: it goes back as it came, so that a mistake in it
//! is the compiler's to report.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::quote;
use syn::{
    Attribute, Expr, ExprLit, FnArg, GenericArgument, Lit, Meta, Pat, PatIdent, PathArguments, PathSegment, Receiver,
    ReturnType, Signature, Token, Type, Visibility,
    parse::{ParseStream, Parser},
};

/// What stands below `#[job]`.
pub(crate) enum Item {
    Function(Box<Function>),
    /// Something else, which begins with this token.
    Other(TokenTree),
}

/// The job function.
pub(crate) struct Function {
    /// No `#[cfg]` is among them: wherever it stands, the compiler has decided on it before.
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    /// Without what was written on arguments for the macro alone.
    pub(crate) signature: Signature,
    /// With its braces; `;` where there is none.
    pub(crate) body: TokenStream,
    pub(crate) receiver: Option<Receiver>,
    pub(crate) arguments: Vec<Argument>,
}

/// One argument of the function.
pub(crate) struct Argument {
    pub(crate) pattern: Pat,
    pub(crate) ty: Type,
    pub(crate) source: Source,
    pub(crate) docs: Vec<Attribute>,
    pub(crate) serde: Vec<Attribute>,
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) supplied: Option<Attribute>,
}

/// Where the value of an argument comes from.
pub(crate) enum Source {
    /// A key of the payload.
    Key,
    /// The payload as a whole, of the type in `Payload<…>`.
    Whole(Box<Type>),
    /// The worker.
    Supplied,
}

impl Item {
    /// Takes apart what stands below `#[job]`. `Err` is syntax that is not known here.
    pub(crate) fn parse(item: TokenStream) -> syn::Result<Self> {
        Parser::parse2(Self::parse_stream, item)
    }

    fn parse_stream(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility = input.parse()?;
        if !is_function(input)? {
            let first = input.parse()?;
            input.parse::<TokenStream>()?;
            return Ok(Self::Other(first));
        }
        let mut signature: Signature = input.parse()?;
        let mut receiver = None;
        let mut arguments = Vec::new();
        for argument in &mut signature.inputs {
            match argument {
                FnArg::Receiver(own) => receiver = Some(own.clone()),
                FnArg::Typed(typed) => {
                    let taken = Taken::from(&mut typed.attrs);
                    arguments.push(taken.into_argument(&typed.pat, &typed.ty));
                }
            }
        }
        let body = input.parse()?;
        Ok(Self::Function(Box::new(Function { attributes, visibility, signature, body, receiver, arguments })))
    }
}

/// Whether a function comes next, whatever its qualifiers.
fn is_function(input: ParseStream<'_>) -> syn::Result<bool> {
    let ahead = input.fork();
    while !ahead.is_empty() && !ahead.peek(Token![fn]) {
        if ahead.peek(Token![const]) || ahead.peek(Token![async]) || ahead.peek(Token![unsafe]) {
            ahead.parse::<TokenTree>()?;
        } else if ahead.peek(Token![extern]) {
            ahead.parse::<syn::Abi>()?;
        } else {
            return Ok(false);
        }
    }
    Ok(ahead.peek(Token![fn]))
}

impl Function {
    pub(crate) fn name(&self) -> &Ident {
        &self.signature.ident
    }

    /// Where the name stands, for generated code: an error is shown there, while a lint knows who wrote it.
    pub(crate) fn generated_span(&self) -> Span {
        self.name().span().resolved_at(Span::call_site())
    }

    pub(crate) fn is_async(&self) -> bool {
        self.signature.asyncness.is_some()
    }

    pub(crate) fn has_body(&self) -> bool {
        self.body.to_string() != ";"
    }

    /// The type after the arrow.
    pub(crate) fn returned(&self) -> Option<&Type> {
        match &self.signature.output {
            ReturnType::Default => None,
            ReturnType::Type(_, ty) => Some(ty),
        }
    }

    /// The first line of the documentation; empty without one.
    pub(crate) fn summary(&self) -> String {
        let lines = self.attributes.iter().filter_map(doc_text);
        lines
            .flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>())
            .find(|line| !line.is_empty())
            .unwrap_or_default()
    }

    /// The function as it was written, minus what was meant for the macro.
    pub(crate) fn unchanged(&self) -> TokenStream {
        let Self { attributes, visibility, signature, body, .. } = self;
        quote!(#(#attributes)* #visibility #signature #body)
    }
}

fn doc_text(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// The attributes of an argument that the macro understands.
#[derive(Default)]
struct Taken {
    docs: Vec<Attribute>,
    serde: Vec<Attribute>,
    cfgs: Vec<Attribute>,
    supplied: Option<Attribute>,
}

impl Taken {
    /// Takes them away from the function, where most of them would be errors.
    fn from(attributes: &mut Vec<Attribute>) -> Self {
        let mut taken = Self::default();
        for attribute in std::mem::take(attributes) {
            let path = attribute.path();
            if path.is_ident("doc") {
                taken.docs.push(attribute);
            } else if path.is_ident("serde") {
                taken.serde.push(attribute);
            } else if path.is_ident("cfg") || path.is_ident("cfg_attr") {
                taken.cfgs.push(attribute);
            } else if path.is_ident("supplied") {
                taken.supplied = Some(attribute);
            } else {
                attributes.push(attribute);
            }
        }
        taken
    }

    fn into_argument(self, pattern: &Pat, ty: &Type) -> Argument {
        let Self { docs, serde, cfgs, supplied } = self;
        let source = if supplied.is_some() { Source::Supplied } else { Source::of(ty) };
        Argument { pattern: pattern.clone(), ty: ty.clone(), source, docs, serde, cfgs, supplied }
    }
}

impl Source {
    /// Says by its name alone where a type comes from: a macro sees no more.
    fn of(ty: &Type) -> Self {
        let Some(segment) = last_segment(ty) else { return Self::Key };
        match (segment.ident.to_string().as_str(), &segment.arguments) {
            ("State", PathArguments::AngleBracketed(_)) | ("Context" | "JobContext", PathArguments::None) => {
                Self::Supplied
            }
            ("Payload", _) => only_type_argument(segment).map_or(Self::Key, |inner| Self::Whole(Box::new(inner))),
            _ => Self::Key,
        }
    }
}

impl Argument {
    /// The name by which the function knows the argument, if it has one.
    pub(crate) fn binding(&self) -> Option<&Ident> {
        match (&self.pattern, &self.source) {
            (Pat::TupleStruct(payload), Source::Whole(_)) if payload.elems.len() == 1 => {
                payload.elems.first().and_then(plain_name)
            }
            (pattern, _) => plain_name(pattern),
        }
    }
}

fn plain_name(pattern: &Pat) -> Option<&Ident> {
    match pattern {
        Pat::Ident(PatIdent { by_ref: None, subpat: None, ident, .. }) => Some(ident),
        Pat::Paren(inner) => plain_name(&inner.pat),
        _ => None,
    }
}

/// `State` of `worker_core::State<Mailer>`.
pub(crate) fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(path) => path.path.segments.last(),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

fn only_type_argument(segment: &PathSegment) -> Option<Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    match (arguments.args.first(), arguments.args.len()) {
        (Some(GenericArgument::Type(inner)), 1) => Some(inner.clone()),
        _ => None,
    }
}
