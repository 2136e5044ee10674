//! JSON over several lines, otherwise as it was written.
//!
//! Parsing and printing it would lose digits of long numbers and the order of
//! the fields; a payload is shown to people who compare it with something.

/// How deep items have lines of their own. What is deeper stays on one line: with indentation, 100,000 brackets that
/// somebody has sent would be gigabytes.
const DEPTH_MAX: usize = 32;

/// `json`, which must be valid, with every item down to a depth on a line of its own.
pub(super) fn indented(json: &str) -> String {
    let mut pretty = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if in_string {
            pretty.push(c);
            (in_string, escaped) = match c {
                '\\' => (true, !escaped),
                '"' => (escaped, false),
                _ => (true, false),
            };
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                pretty.push(c);
            }
            '{' | '[' => {
                pretty.push(c);
                while chars.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    pretty.push(end);
                } else {
                    depth += 1;
                    new_line(&mut pretty, depth);
                }
            }
            '}' | ']' => {
                // As its opening bracket was followed by.
                if depth <= DEPTH_MAX {
                    new_line(&mut pretty, depth.saturating_sub(1));
                }
                depth = depth.saturating_sub(1);
                pretty.push(c);
            }
            ',' => {
                pretty.push(c);
                new_line(&mut pretty, depth);
            }
            ':' => pretty.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => pretty.push(c),
        }
    }
    pretty
}

fn new_line(text: &mut String, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_order_and_strings_stay_as_they_were() {
        let json = r#" {"b":12345678901234567890.10,"a":[ ],"c":{"d":["x, \"{y}\\",null]}} "#;
        let expected = "{\n  \"b\": 12345678901234567890.10,\n  \"a\": [],\n  \"c\": {\n    \"d\": [\n      \"x, \\\"{y}\\\\\",\n      null\n    ]\n  }\n}";
        assert_eq!(indented(json), expected);
    }

    #[test]
    fn what_is_nested_without_end_takes_no_more_room_than_it_has() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let pretty = indented(&deep);
        assert!(pretty.len() < deep.len() + 10_000, "{}", pretty.len());
        let kept: String = pretty.chars().filter(|c| !c.is_whitespace()).collect();
        assert_eq!(kept, deep);
        assert!(pretty.ends_with("\n  ]\n]"), "{}", &pretty[pretty.len() - 80..]);
    }

    proptest! {
        #[test]
        fn a_string_survives_whatever_it_holds(text in any::<String>(), key in any::<String>()) {
            let value = serde_json::json!({key: [text, {}]});
            let pretty = indented(&value.to_string());
            prop_assert_eq!(&pretty, &serde_json::to_string_pretty(&value).unwrap());
        }
    }
}
