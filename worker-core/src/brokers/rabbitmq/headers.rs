//! Header values: JSON on our side, AMQP's table types on the wire. Pure.
//!
//! What AMQP can say natively is said natively, so that a neighbour in another
//! language reads it; what it cannot say travels as JSON text in a table with
//! one key, and comes back as what it was.

use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Map, Number, Value};

use crate::envelope::depth;

/// The key of a table that stands for the JSON in its text.
const JSON: &str = "$json";

/// How deep a value may be nested that another program wrote: twice what an application may write here. It is not
/// followed further.
pub(super) const DEPTH_MAX: usize = 16;

pub(super) fn to_amqp(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(yes) => AMQPValue::Boolean(*yes),
        Value::Number(number) => number_to_amqp(number),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(items) => {
            let mut array = FieldArray::default();
            items.iter().for_each(|item| array.push(to_amqp(item)));
            AMQPValue::FieldArray(array)
        }
        Value::Object(fields) => {
            let mut table = FieldTable::default();
            for (name, value) in fields {
                let Some(name) = ShortString::try_new(name.as_str()).ok().filter(|name| name.as_str() != JSON) else {
                    return as_json(value_of(fields));
                };
                table.insert(name, to_amqp(value));
            }
            AMQPValue::FieldTable(table)
        }
    }
}

fn value_of(fields: &Map<String, Value>) -> String {
    serde_json::to_string(fields).unwrap_or_default()
}

fn as_json(text: String) -> AMQPValue {
    let mut table = FieldTable::default();
    table.insert(JSON.into(), AMQPValue::LongString(text.into()));
    AMQPValue::FieldTable(table)
}

fn number_to_amqp(number: &Number) -> AMQPValue {
    if let Some(integer) = number.as_i64() {
        // The narrow type where it fits, as Python's pika does: it prints the wide one as `3L`.
        return i32::try_from(integer).map_or(AMQPValue::LongLongInt(integer), AMQPValue::LongInt);
    }
    match number.as_f64() {
        Some(float) if number.as_u64().is_none() => AMQPValue::Double(float),
        // Above 2^63: AMQP's table has no such integer, and a float would lose digits.
        _ => as_json(number.to_string()),
    }
}

/// The value as a handler sees it; what JSON cannot say becomes its text.
pub(super) fn from_amqp(value: &AMQPValue) -> Value {
    within(value, DEPTH_MAX)
}

/// The same, down to so many levels of arrays and tables.
pub(super) fn within(value: &AMQPValue, levels: usize) -> Value {
    let below = levels.saturating_sub(1);
    match value {
        AMQPValue::Boolean(yes) => Value::Bool(*yes),
        AMQPValue::Float(float) => Number::from_f64(f64::from(*float)).map_or(Value::Null, Value::Number),
        AMQPValue::Double(float) => Number::from_f64(*float).map_or(Value::Null, Value::Number),
        AMQPValue::DecimalValue(decimal) => Value::String(format!("{}e-{}", decimal.value, decimal.scale)),
        AMQPValue::ShortString(text) => Value::String(text.as_str().to_owned()),
        AMQPValue::LongString(text) => Value::String(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ByteArray(bytes) => Value::String(String::from_utf8_lossy(bytes.as_slice()).into_owned()),
        AMQPValue::Timestamp(seconds) => (*seconds).into(),
        AMQPValue::FieldArray(array) if levels > 0 => array.as_slice().iter().map(|item| within(item, below)).collect(),
        AMQPValue::FieldTable(table) => match json_in(table) {
            Some(json) if depth(&json) <= levels => json,
            None if levels > 0 => {
                let fields = table.inner().iter().map(|(name, value)| (name.as_str().to_owned(), within(value, below)));
                Value::Object(fields.collect::<Map<_, _>>())
            }
            _ => Value::Null,
        },
        AMQPValue::FieldArray(_) | AMQPValue::Void => Value::Null,
        _ => integer(value).map_or(Value::Null, Value::from),
    }
}

/// Whether it is nested deeper than it is followed.
pub(super) fn is_too_deep(value: &AMQPValue) -> bool {
    is_deeper(value, DEPTH_MAX)
}

fn is_deeper(value: &AMQPValue, levels: usize) -> bool {
    let below = |value: &AMQPValue| levels == 0 || is_deeper(value, levels - 1);
    match value {
        AMQPValue::FieldArray(array) => levels == 0 || array.as_slice().iter().any(below),
        AMQPValue::FieldTable(table) => match json_in(table) {
            // It counts as what it says: its text could hold more levels than a table may.
            Some(json) => depth(&json) > levels,
            None => levels == 0 || table.inner().values().any(below),
        },
        _ => false,
    }
}

fn json_in(table: &FieldTable) -> Option<Value> {
    let [(name, AMQPValue::LongString(text))] = table.inner().iter().collect::<Vec<_>>()[..] else { return None };
    if name.as_str() != JSON {
        return None;
    }
    serde_json::from_slice(text.as_bytes()).ok()
}

/// An integer of any width, as Python, Java and the server write them; also as text or a date.
pub(super) fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        AMQPValue::Timestamp(n) => i64::try_from(*n).ok(),
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.trim().parse().ok(),
        AMQPValue::ShortString(text) => text.as_str().trim().parse().ok(),
        _ => None,
    }
}

/// The text of a header, if it is text.
pub(super) fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("JSON has no infinity", |f| f.is_finite()).prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_comes_back_as_it_was(value in any_json()) {
            prop_assert_eq!(from_amqp(&to_amqp(&value)), value);
        }
    }

    #[test]
    fn a_key_that_amqp_cannot_write_loses_nothing() {
        for value in [json!({"k".repeat(300): [1, 2]}), json!({"$json": "1"}), json!({"a": {"$json": {"$json": 1}}})] {
            assert_eq!(from_amqp(&to_amqp(&value)), value);
        }
    }

    #[test]
    fn a_small_integer_is_written_as_python_writes_it() {
        assert_eq!(to_amqp(&json!(3)), AMQPValue::LongInt(3));
        assert_eq!(to_amqp(&json!(3_000_000_000_u32)), AMQPValue::LongLongInt(3_000_000_000));
    }

    #[test]
    fn an_integer_of_any_width_or_in_text_is_read() {
        let three = [
            AMQPValue::ShortShortInt(3),
            AMQPValue::ShortUInt(3),
            AMQPValue::LongInt(3),
            AMQPValue::LongLongInt(3),
            AMQPValue::LongString(" 3 ".into()),
        ];
        assert!(three.iter().all(|value| integer(value) == Some(3)));
        assert_eq!(integer(&AMQPValue::LongString("three".into())), None);
        assert_eq!(integer(&AMQPValue::Double(3.0)), None);
    }

    #[test]
    fn what_is_at_the_last_level_arrives_and_json_in_a_text_is_nested_as_deep_as_it_says() {
        let nested = |levels| (0..levels).fold(json!(7), |inner, _| json!([inner]));
        let whole = to_amqp(&nested(DEPTH_MAX));
        assert!(!is_too_deep(&whole));
        assert_eq!(from_amqp(&whole), nested(DEPTH_MAX), "it is not refused, so nothing of it is lost");
        assert!(is_too_deep(&to_amqp(&nested(DEPTH_MAX + 1))));
        let text = |levels| as_json(nested(levels).to_string());
        assert_eq!((is_too_deep(&text(DEPTH_MAX)), from_amqp(&text(DEPTH_MAX))), (false, nested(DEPTH_MAX)));
        assert_eq!((is_too_deep(&text(DEPTH_MAX + 1)), from_amqp(&text(DEPTH_MAX + 1))), (true, Value::Null));
    }

    #[test]
    fn a_table_of_depth_without_end_is_cut() {
        let deep = (0..1_000).fold(AMQPValue::Void, |inner, _| {
            let mut array = FieldArray::default();
            array.push(inner);
            AMQPValue::FieldArray(array)
        });
        assert!(from_amqp(&deep).to_string().len() < 100);
    }
}
