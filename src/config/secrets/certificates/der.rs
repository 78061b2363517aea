//! Fields of a certificate that rustls does not expose: the end of its validity, and the length of an RSA key.
//!
//! ```text
//! Certificate ::= SEQUENCE { tbs SEQUENCE {
//!     [0] version?, serial INTEGER, algorithm SEQUENCE, issuer SEQUENCE,
//!     validity SEQUENCE { notBefore Time, notAfter Time }, subject SEQUENCE,
//!     key SEQUENCE { SEQUENCE { algorithm OID, … }, BIT STRING }, …        (RFC 5280, 4.1)
//! ```
//!
//! They only explain and are shown, and decide nothing, so an unreadable one is unknown, and not an error.

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// 1.2.840.113549.1.1.1, `rsaEncryption`.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// When a certificate expires, in seconds since 1970.
pub(crate) fn expiry(certificate: &[u8]) -> Option<u64> {
    let (SEQUENCE, validity, _) = element(from_validity(certificate)?)? else { return None };
    let (kind, text, _) = element(element(validity)?.2)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    // YYMMDDhhmmss, with years from 1950 to 2049, or YYYYMMDDhhmmss.
    let (year, text) = match kind {
        UTC_TIME => {
            let year = number(text.get(..2)?)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        GENERALIZED_TIME => (number(text.get(..4)?)?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize| number(text.get(at..at + 2)?);
    let days = days_since_1970(year, part(0)?, part(2)?)?;
    Some(days * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?)
}

/// The length of a certificate's RSA key in bits; `None` if the key is of another kind.
pub(crate) fn rsa_bits(certificate: &[u8]) -> Option<usize> {
    let subject = element(from_validity(certificate)?)?.2;
    let (SEQUENCE, key, _) = element(element(subject)?.2)? else { return None };
    rsa_bits_of_key(key)
}

/// The same of the content of the certificate's field for the key.
pub(crate) fn rsa_bits_of_key(key: &[u8]) -> Option<usize> {
    let (SEQUENCE, algorithm, bits) = element(key)? else { return None };
    let (OID, RSA, _) = element(algorithm)? else { return None };
    // The first byte counts the unused bits of the last one.
    let (BIT_STRING, [0, key @ ..], _) = element(bits)? else { return None };
    let (SEQUENCE, key, _) = element(key)? else { return None };
    let (INTEGER, modulus, _) = element(key)? else { return None };
    let first = modulus.iter().position(|byte| *byte != 0)?;
    let zeros = usize::try_from(modulus[first].leading_zeros()).ok()?;
    Some((modulus.len() - first) * 8 - zeros)
}

/// Returns whether the bytes are one element without anything missing or left over.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    matches!(element(bytes), Some((SEQUENCE, _, [])))
}

/// A certificate from its validity on.
fn from_validity(certificate: &[u8]) -> Option<&[u8]> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = element(certificate)? else { return None };
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    for _ in ["serial", "algorithm", "issuer"] {
        rest = element(rest)?.2;
    }
    Some(rest)
}

/// The first element: its tag, its content, and the bytes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Days before a date of the Gregorian calendar; nothing before 1970.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_years = |until: u64| until / 4 - until / 100 + until / 400;
    let before = BEFORE_MONTH.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    let is_leap = leap_years(year) > leap_years(year.checked_sub(1)?);
    let leap_day = u64::from(is_leap && month > 2);
    let years = year.checked_sub(1970)?;
    Some(years * 365 + leap_years(year - 1) - leap_years(1969) + before + leap_day + day.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(time: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| {
            let mut made = vec![tag, 0x82];
            made.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            made.extend(content);
            made
        };
        let validity = [&[UTC_TIME, 13], b"240101000000Z".as_slice(), time].concat();
        let body = [
            [VERSION, 3, 2, 1, 2].as_slice(),
            &[2, 1, 7],
            &[SEQUENCE, 0],
            &wrap(SEQUENCE, &[0; 300]),
            &wrap(SEQUENCE, &validity),
        ];
        wrap(SEQUENCE, &wrap(SEQUENCE, &body.concat()))
    }

    #[test]
    fn the_end_of_validity_is_read_in_both_forms() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "000229120000Z", Some(951_825_600)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "21000301000000Z", Some(4_107_542_400)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "500101000000Z", None),
            (UTC_TIME, "240001000000Z", None),
            (UTC_TIME, "24010100000", None),
            (UTC_TIME, "+40101000000Z", None),
            (4, "240101000000Z", None),
        ] {
            let time = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            assert_eq!(expiry(&certificate(&time)), expected, "{text}");
        }
    }

    #[test]
    fn a_certificate_that_is_cut_off_anywhere_is_unknown() {
        let whole = certificate(&[&[UTC_TIME, 13], b"240101000000Z".as_slice()].concat());
        assert!(expiry(&whole).is_some() && is_whole(&whole));
        assert!((0..whole.len()).all(|length| expiry(&whole[..length]).is_none()));
        assert!((0..whole.len()).all(|length| !is_whole(&whole[..length])));
        assert_eq!((expiry(&[0xff; 64]), rsa_bits(&[0xff; 64]), is_whole(&[0xff; 64])), (None, None, false));
    }

    #[test]
    fn the_length_of_an_rsa_key_is_that_of_its_modulus() {
        let wrap =
            |tag: u8, content: &[u8]| [&[tag, 0x81, u8::try_from(content.len()).unwrap()], content].concat();
        let key = |oid: &[u8], modulus: &[u8]| {
            let numbers = wrap(SEQUENCE, &[wrap(INTEGER, modulus), wrap(INTEGER, &[3])].concat());
            [wrap(SEQUENCE, &wrap(OID, oid)), wrap(BIT_STRING, &[&[0], &*numbers].concat())].concat()
        };
        for (modulus, expected) in [
            ([&[0, 0xc0], [7; 127].as_slice()].concat(), Some(1024)),
            ([&[0x40], [7; 127].as_slice()].concat(), Some(1023)),
            (vec![0, 1], Some(1)),
            (vec![0], None),
        ] {
            assert_eq!(rsa_bits_of_key(&key(RSA, &modulus)), expected);
        }
        assert_eq!(rsa_bits_of_key(&key(&[1, 2, 3], &[0xc0; 100])), None);
        let whole = key(RSA, &[0xc0; 100]);
        assert!((0..whole.len() - 3).all(|length| rsa_bits_of_key(&whole[..length]).is_none()));
    }
}
