//! Timestamps: from the ISO form that Postgres prints to the XSD form that `to_jsonb` prints.
//!
//! The two differ in the `T` and in the minutes of the offset, which the XSD form always has. The rest is alike: years
//! may have more than four digits, offsets may have seconds (times before standard time), and ` BC` comes last.

use super::ValueError;

/// Whether the type carries an offset from UTC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Offset {
    Absent,
    Present,
}

pub(super) fn write(text: &str, offset: Offset, out: &mut String) -> Result<(), ValueError> {
    if matches!(text, "infinity" | "-infinity") {
        out.push('"');
        out.push_str(text);
        out.push('"');
        return Ok(());
    }
    let Some((date, rest)) = text.split_once(' ') else {
        return ValueError::expected("blank after the date", text.len());
    };
    let (clock, era) = match rest.strip_suffix(" BC") {
        Some(clock) => (clock, " BC"),
        None => (rest, ""),
    };
    let (time, zone) = clock.split_at(clock.find(['+', '-']).unwrap_or(clock.len()));

    // Checked to the letter, as the text is not escaped: these are the only characters of the format.
    if date.is_empty() || !date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return ValueError::expected("date", 0);
    }
    if time.is_empty()
        || !time
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'))
    {
        return ValueError::expected("time", date.len() + 1);
    }
    let zone_at = date.len() + 1 + time.len();
    let minutes = match (offset, zone.get(1..).map(str::as_bytes)) {
        (Offset::Absent, None) => "",
        (Offset::Present, Some([h1, h2])) if both_digits(*h1, *h2) => ":00",
        (Offset::Present, Some([h1, h2, b':', rest @ ..]))
            if both_digits(*h1, *h2) && rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b':') =>
        {
            ""
        }
        (Offset::Absent, Some(_)) => return ValueError::expected("end of the timestamp", zone_at),
        (Offset::Present, _) => return ValueError::expected("offset from UTC", zone_at),
    };

    out.reserve(text.len() + 5);
    out.push('"');
    out.push_str(date);
    out.push('T');
    out.push_str(clock);
    out.push_str(minutes);
    out.push_str(era);
    out.push('"');
    Ok(())
}

fn both_digits(a: u8, b: u8) -> bool {
    a.is_ascii_digit() && b.is_ascii_digit()
}
