//! JSON without loss: numbers keep all their digits.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// Of equal keys the last one, as readers of JSON see it.
    Object(BTreeMap<String, Json>),
    Array(Vec<Json>),
    Text(String),
    /// A number in its plain form, `true`, `false` or `null`.
    Literal(String),
}

impl Json {
    /// None if it is no JSON.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.as_bytes().first()? {
            b'{' => {
                let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
                members
                    .into_iter()
                    .map(|(key, value)| Some((key, Self::parse(value.get())?)))
                    .collect::<Option<_>>()
                    .map(Self::Object)
            }
            b'[' => {
                let elements: Vec<Box<RawValue>> = serde_json::from_str(text).ok()?;
                elements
                    .iter()
                    .map(|element| Self::parse(element.get()))
                    .collect::<Option<_>>()
                    .map(Self::Array)
            }
            b'"' => serde_json::from_str(text).ok().map(Self::Text),
            _ => serde_json::from_str::<&RawValue>(text)
                .ok()
                .map(|literal| Self::Literal(plain(literal.get()))),
        }
    }
}

/// A number in one of the ways to write it: its digits and its power of ten, so that 1e2, 100 and 100.0 are one. Any
/// other literal as it is.
fn plain(literal: &str) -> String {
    let (sign, magnitude) = match literal.strip_prefix('-') {
        Some(magnitude) => ("-", magnitude),
        None => ("", literal),
    };
    if !magnitude.starts_with(|first: char| first.is_ascii_digit()) {
        return literal.to_owned();
    }
    let (mantissa, power) = magnitude.split_once(['e', 'E']).unwrap_or((magnitude, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return "0".to_owned();
    }
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    let power: i64 = power.parse().unwrap();
    let power = power + i64::try_from(trailing).unwrap() - i64::try_from(fraction.len()).unwrap();
    format!("{sign}{significant}e{power}")
}
