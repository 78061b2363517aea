//! Numbers in decimal with a fixed width, as the append script reads them.

pub(super) fn padded(out: &mut Vec<u8>, number: usize, width: usize) {
    padded_u64(out, number as u64, width);
}

/// Repeats the last `width` bytes, a number in decimal, with one more: in a window nearly every ordinal is the one
/// before and one, and its digits need no division.
pub(super) fn one_more(out: &mut Vec<u8>, width: usize) {
    let last = out.len() - width;
    out.extend_from_within(last..);
    for digit in out[last + width..].iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            break;
        }
        *digit = b'0';
    }
}

/// The number that [`padded_u64`] wrote.
pub(super) fn decimal(digits: &[u8]) -> u64 {
    digits.iter().fold(0_u64, |number, digit| {
        number.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    })
}

/// A number in decimal, filled with zeros to a fixed width.
pub(super) fn padded_u64(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out[start..].iter_mut().rev() {
        if number == 0 {
            break;
        }
        *digit += u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}
