//! Exact comparison of `numeric` values by the text Postgres prints.

use std::borrow::Cow;
use std::cmp::Ordering;

/// A `numeric`: digits without the zeros that say nothing, so that equal values are equal here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Decimal<'a> {
    class: Class,
    integer: Cow<'a, str>,
    fraction: Cow<'a, str>,
}

/// In the order Postgres gives them: NaN is greater than everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Class {
    NegativeInfinity,
    Negative,
    Zero,
    Positive,
    Infinity,
    NotANumber,
}

impl<'a> Decimal<'a> {
    /// Reads what `numeric` prints; `None` for anything else.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        let special = match text {
            "NaN" => Some(Class::NotANumber),
            "Infinity" => Some(Class::Infinity),
            "-Infinity" => Some(Class::NegativeInfinity),
            _ => None,
        };
        if let Some(class) = special {
            return Some(Self::without_digits(class));
        }
        let (sign, digits) = text
            .strip_prefix('-')
            .map_or((Class::Positive, text), |digits| (Class::Negative, digits));
        let (integer, fraction) = match digits.split_once('.') {
            Some((integer, fraction)) if !fraction.is_empty() => (integer, fraction),
            Some(_) => return None,
            None => (digits, ""),
        };
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if integer.is_empty() || !all_digits(integer) || !all_digits(fraction) {
            return None;
        }
        let integer = integer.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        if integer.is_empty() && fraction.is_empty() {
            return Some(Self::without_digits(Class::Zero));
        }
        Some(Self {
            class: sign,
            integer: Cow::Borrowed(integer),
            fraction: Cow::Borrowed(fraction),
        })
    }

    fn without_digits(class: Class) -> Self {
        Self {
            class,
            integer: Cow::Borrowed(""),
            fraction: Cow::Borrowed(""),
        }
    }

    pub(crate) fn into_owned(self) -> Decimal<'static> {
        Decimal {
            class: self.class,
            integer: Cow::Owned(self.integer.into_owned()),
            fraction: Cow::Owned(self.fraction.into_owned()),
        }
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.class.cmp(&other.class).then_with(|| {
            let magnitudes = (self.integer.len(), &self.integer, &self.fraction).cmp(&(
                other.integer.len(),
                &other.integer,
                &other.fraction,
            ));
            match self.class {
                Class::Negative => magnitudes.reverse(),
                _ => magnitudes,
            }
        })
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_have_the_order_of_their_values() {
        let ascending = [
            "-Infinity",
            "-10.01",
            "-10",
            "-9.99",
            "-0.5",
            "-0.05",
            "0",
            "0.0005",
            "0.05",
            "0.5",
            "0.51",
            "1",
            "9.99",
            "10",
            "123456789012345678901234567890.1",
            "Infinity",
            "NaN",
        ];
        for (a, left) in ascending.iter().enumerate() {
            for (b, right) in ascending.iter().enumerate() {
                let compared = Decimal::read(left).cmp(&Decimal::read(right));
                assert_eq!(compared, a.cmp(&b), "{left} and {right}");
            }
        }
        for (left, right) in [("1.00", "1"), ("-0.0", "0"), ("0.10", "0.1"), ("-5.0", "-5")] {
            assert_eq!(Decimal::read(left), Decimal::read(right), "{left} and {right}");
        }
        for text in ["", "-", ".5", "5.", "1e5", "+1", " 1", "1.2.3", "nan"] {
            assert_eq!(Decimal::read(text), None, "{text}");
        }
    }
}
