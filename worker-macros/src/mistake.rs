//! The mistakes found in one use of the macro, collected so that all are reported at once.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::Error;

/// What is wrong, where, and what to write instead.
#[derive(Default)]
pub(crate) struct Mistakes(Vec<Error>);

impl Mistakes {
    /// Records that the tokens `at` are wrong: `what` is, and `fix` is the advice, on a line of its own.
    ///
    /// The advice is part of the message because `compile_error!` has no notes.
    pub(crate) fn add(&mut self, at: impl ToTokens, what: impl AsRef<str>, fix: impl AsRef<str>) {
        let message = format!("{}\n{}", what.as_ref(), fix.as_ref());
        self.0.push(Error::new_spanned(at, message));
    }

    /// Records what the parser could not make sense of.
    pub(crate) fn add_syntax(&mut self, error: Error) {
        self.0.push(error);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds those of `others`.
    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// One `compile_error!` for each.
    pub(crate) fn into_compile_errors(self) -> TokenStream {
        self.0.into_iter().map(Error::into_compile_error).collect()
    }

    #[cfg(test)]
    pub(crate) fn texts(&self) -> Vec<String> {
        self.0.iter().map(Error::to_string).collect()
    }
}
