//! Tokens as a person would write them: for messages, and for types on the command line.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;

/// `tokens` with the spaces that rustfmt would put, on one line: `HashMap<String, Vec<u8>>`.
///
/// The source text itself is not used: a macro can have made the tokens, and
/// it can hold comments and line breaks.
pub(crate) fn text(tokens: impl ToTokens) -> String {
    let mut writer = Writer { out: String::new(), last: Last::Opening };
    writer.stream(tokens.into_token_stream());
    writer.out.trim_start().to_owned()
}

struct Writer {
    out: String,
    last: Last,
}

/// What was written last, as far as it decides on the next space.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    /// An identifier, a literal or a lifetime.
    Word,
    /// `>`, `)` or `]`: a word needs a space after it.
    Closing,
    /// Whatever the next token stands close to.
    Opening,
    /// Something that already ends in its space.
    Spaced,
}

impl Writer {
    fn stream(&mut self, stream: TokenStream) {
        let mut tokens = stream.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.group(group.delimiter(), group.stream()),
                TokenTree::Ident(ident) => self.word(&ident.to_string()),
                TokenTree::Literal(literal) => self.word(&literal.to_string()),
                TokenTree::Punct(punct) => {
                    let next = match tokens.peek() {
                        Some(TokenTree::Punct(next)) if punct.spacing() == Spacing::Joint => Some(next.as_char()),
                        _ => None,
                    };
                    let pair = match (punct.as_char(), next) {
                        ('-', Some('>')) => Some(" -> "),
                        ('=', Some('>')) => Some(" => "),
                        (':', Some(':')) => Some("::"),
                        _ => None,
                    };
                    match pair {
                        Some(pair) => {
                            tokens.next();
                            self.out.push_str(pair);
                            self.last = if pair == "::" { Last::Opening } else { Last::Spaced };
                        }
                        None => self.punct(punct.as_char()),
                    }
                }
            }
        }
    }

    fn group(&mut self, delimiter: Delimiter, stream: TokenStream) {
        let (open, close) = match delimiter {
            Delimiter::Parenthesis => ("(", ")"),
            Delimiter::Bracket => (if self.last == Last::Word { " [" } else { "[" }, "]"),
            Delimiter::Brace => (if self.last == Last::Word { " { " } else { "{ " }, " }"),
            // Invisible: put there by `macro_rules!` around what matched.
            Delimiter::None => return self.stream(stream),
        };
        self.out.push_str(open);
        self.last = Last::Opening;
        self.stream(stream);
        self.out.push_str(close);
        self.last = Last::Closing;
    }

    fn word(&mut self, word: &str) {
        if matches!(self.last, Last::Word | Last::Closing) {
            self.out.push(' ');
        }
        self.out.push_str(word);
        self.last = Last::Word;
    }

    fn punct(&mut self, punct: char) {
        match punct {
            ',' | ';' | ':' => {
                self.out.push(punct);
                self.out.push(' ');
                self.last = Last::Spaced;
            }
            '+' | '=' | '|' => {
                self.out.extend([' ', punct, ' ']);
                self.last = Last::Spaced;
            }
            '>' => {
                self.out.push('>');
                self.last = Last::Closing;
            }
            '\'' | '&' | '*' if matches!(self.last, Last::Word | Last::Closing) => {
                self.out.extend([' ', punct]);
                self.last = Last::Opening;
            }
            _ => {
                self.out.push(punct);
                self.last = Last::Opening;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_rustfmt_writes_them() {
        for source in [
            "u64",
            "Vec<u32>",
            "HashMap<String, Vec<Option<u8>>>",
            "std::collections::BTreeMap<&'static str, (u8, [u8; 4])>",
            "State<dyn Fn(&str, u8) -> u8 + Send + 'static>",
            "Box<dyn for<'a> Fn(&'a mut [u8]) -> Result<&'a str, ()>>",
            "<Vec<u8> as IntoIterator>::Item",
            "&'a mut T",
            "*const u8",
            "Matrix<{ N + 1 }, -1>",
            "impl Iterator<Item = u8> + ?Sized",
            "Order { id, .. }",
            "(a, _)",
        ] {
            let spread: TokenStream = source.parse().unwrap();
            assert_eq!(text(spread), source);
        }
    }
}
