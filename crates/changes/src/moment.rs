//! Dates and times as numbers, from the text Postgres prints under `DateStyle = ISO`: `2024-02-03`,
//! `04:05:06.789`, `2024-02-03 04:05:06.789+02`, `0044-03-15 BC`, `infinity`.

const SECOND_US: i64 = 1_000_000;
const DAY_S: i64 = 86_400;

/// Days since 2000-01-01. Infinities are the ends of the range.
pub(crate) fn date(text: &str) -> Option<i64> {
    infinity(text).or_else(|| {
        let (text, is_bc) = era(text);
        day(text, is_bc)
    })
}

/// Microseconds since midnight.
pub(crate) fn time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = clock.split(':');
    let seconds =
        two_digits(parts.next()?)? * 3_600 + two_digits(parts.next()?)? * 60 + two_digits(parts.next()?)?;
    if parts.next().is_some() {
        return None;
    }
    Some(seconds * SECOND_US + microseconds(fraction)?)
}

/// Microseconds since 2000-01-01 00:00:00. Infinities are the ends of the range.
pub(crate) fn timestamp(text: &str) -> Option<i64> {
    infinity(text).or_else(|| {
        let (text, is_bc) = era(text);
        local(text, is_bc)
    })
}

/// Microseconds since 2000-01-01 00:00:00 UTC, whatever the offset it is printed with.
pub(crate) fn timestamptz(text: &str) -> Option<i64> {
    infinity(text).or_else(|| {
        let (text, is_bc) = era(text);
        // After the date, whose hyphens are not signs.
        let sign_at = text.find(' ').and_then(|at| {
            let clock = text.get(at..)?;
            clock.find(['+', '-']).map(|sign| at + sign)
        })?;
        let (moment, offset) = text.split_at_checked(sign_at)?;
        let offset_us = offset_s(offset)? * SECOND_US;
        local(moment, is_bc)?.checked_sub(offset_us)
    })
}

fn infinity(text: &str) -> Option<i64> {
    match text {
        "infinity" => Some(i64::MAX),
        "-infinity" => Some(i64::MIN),
        _ => None,
    }
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC")
        .map_or((text, false), |text| (text, true))
}

fn local(text: &str, is_bc: bool) -> Option<i64> {
    let (date, clock) = text.split_once(' ')?;
    day(date, is_bc)?
        .checked_mul(DAY_S * SECOND_US)?
        .checked_add(time(clock)?)
}

/// `+02`, `-05:30`, `+00:19:32`.
fn offset_s(text: &str) -> Option<i64> {
    let (sign, digits) = text
        .strip_prefix('-')
        .map(|digits| (-1, digits))
        .or_else(|| text.strip_prefix('+').map(|digits| (1, digits)))?;
    let mut seconds = 0;
    let mut unit_s = 3_600;
    for part in digits.split(':') {
        if unit_s == 0 {
            return None;
        }
        seconds += two_digits(part)? * unit_s;
        unit_s /= 60;
    }
    Some(sign * seconds)
}

/// Days since 2000-01-01 in the proleptic Gregorian calendar; before year 1 comes 1 BC.
fn day(text: &str, is_bc: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(4..=7).contains(&year.len()) {
        return None;
    }
    let year = digits(year)?;
    let year = if is_bc { 1 - year } else { year };
    let (month, day) = (two_digits(month)?, two_digits(day)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day comes last.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let (century, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month + 2) / 5 + day - 1;
    // 2000-03-01 begins an era; 60 days before it begins the year.
    Some((century - 5) * 146_097 + day_of_era + 60)
}

fn microseconds(fraction: &str) -> Option<i64> {
    let missing = 6_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    Some(digits(fraction)? * 10_i64.pow(missing))
}

fn two_digits(text: &str) -> Option<i64> {
    (text.len() == 2).then(|| digits(text))?
}

fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_the_year_2000() {
        let cases = [
            ("2000-01-01", Some(0)),
            ("2000-03-01", Some(60)),
            ("1999-12-31", Some(-1)),
            ("1970-01-01", Some(-10_957)),
            // As `date - date '2000-01-01'` says.
            ("0001-01-01", Some(-730_119)),
            ("0001-12-31 BC", Some(-730_120)),
            ("4713-01-01 BC", Some(-2_451_507)),
            ("5874897-12-31", Some(2_145_031_948)),
            ("infinity", Some(i64::MAX)),
            ("-infinity", Some(i64::MIN)),
            ("2000-1-1", None),
            ("2000-13-01", None),
            ("20000-01", None),
            ("yesterday", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(date(text), expected, "{text}");
        }
    }

    #[test]
    fn an_offset_is_no_difference() {
        let moment = timestamptz("2024-02-03 02:05:06.5+00").unwrap();
        for text in [
            "2024-02-03 04:05:06.5+02",
            "2024-02-02 20:35:06.500000-05:30",
            "2024-02-03 02:24:38.5+00:19:32",
        ] {
            assert_eq!(timestamptz(text), Some(moment), "{text}");
        }
        assert_eq!(timestamp("2024-02-03 02:05:06.5"), Some(moment));
        assert_eq!(time("24:00:00"), Some(DAY_S * SECOND_US));
        for text in [
            "2024-02-03 02:05:06",
            "2024-02-03+00",
            "2024-02-03 02:05:06+00:00:00:00",
            "now",
        ] {
            assert_eq!(timestamptz(text), None, "{text}");
        }
        for text in [
            "04:05",
            "4:05:06",
            "04:05:06.1234567",
            "04:05:06+02",
            "04:05:06.",
            "",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
