//! Commands as they go over the wire.

/// Most arguments of one command: ElastiCache serverless refuses a request with more than 3,999. Larger ones are sent
/// as several commands, or in smaller batches.
pub const MAX_ARGUMENTS: usize = 3_900;

/// Room for `$`, the digits of any length, and the line's end.
const HEADER_BYTES: usize = 23;

/// Appends `*n`: a command of this many arguments follows.
pub fn header(out: &mut Vec<u8>, arguments: usize) {
    let mut text = [0; HEADER_BYTES];
    out.extend_from_slice(line(b'*', arguments, &mut text));
}

/// Appends one argument.
pub fn argument(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut text = [0; HEADER_BYTES];
    let head = line(b'$', bytes.len(), &mut text);
    out.reserve(head.len() + bytes.len() + 2);
    out.extend_from_slice(head);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends one argument, in three pieces.
pub fn argument_of(out: &mut Vec<u8>, pieces: [&[u8]; 3]) {
    let mut text = [0; HEADER_BYTES];
    out.extend_from_slice(line(b'$', pieces.iter().map(|piece| piece.len()).sum(), &mut text));
    for piece in pieces {
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a number as one argument.
pub fn number_argument(out: &mut Vec<u8>, number: usize) {
    let mut text = [0; 20];
    argument(out, decimal(number, &mut text));
}

/// Appends a whole command.
pub fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    header(out, arguments.len());
    for bytes in arguments {
        argument(out, bytes);
    }
}

/// Appends a login whose answer [`Reader::await_login`] drops: AUTH between two requests for a protocol that no server
/// knows. Like AUTH they need no right, and change nothing; a subscribed connection takes them too.
///
/// [`Reader::await_login`]: super::Reader::await_login
pub fn login(out: &mut Vec<u8>, user: &str, password: &str) {
    for line in [
        &[b"HELLO".as_slice(), b"1"][..],
        &[b"AUTH", user.as_bytes(), password.as_bytes()],
        &[b"HELLO", b"1"],
    ] {
        command(out, line);
    }
}

/// A header line, in one piece: several are written for each message.
fn line(kind: u8, number: usize, text: &mut [u8; HEADER_BYTES]) -> &[u8] {
    let [digits @ .., _, _] = text;
    let at = decimal_at(number, digits);
    text[at - 1] = kind;
    text[HEADER_BYTES - 2..].copy_from_slice(b"\r\n");
    &text[at - 1..]
}

fn decimal(number: usize, text: &mut [u8; 20]) -> &[u8] {
    let at = decimal_at(number, text);
    &text[at..]
}

/// Writes a number's digits at the end of `text`, which has room for the largest, and returns where they begin. Without
/// `fmt`, for speed.
fn decimal_at(mut number: usize, text: &mut [u8]) -> usize {
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

/// A server's reply, as it goes over the wire.
#[cfg(test)]
pub(crate) fn reply(value: &super::Value, out: &mut Vec<u8>) {
    use super::Value;
    match value {
        Value::Null => out.extend_from_slice(b"_\r\n"),
        Value::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Value::Bytes(bytes) => argument(out, bytes),
        Value::Error(text) => out.extend_from_slice(&[b"-", &text[..], b"\r\n"].concat()),
        Value::Array(all) | Value::Push(all) => {
            header(out, all.len());
            all.iter().for_each(|one| reply(one, out));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_any_bytes() {
        let mut out = Vec::new();
        command(&mut out, &[b"SET", b"a\r\nb", b""]);
        number_argument(&mut out, 0);
        number_argument(&mut out, usize::MAX);
        assert_eq!(
            out,
            b"*3\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$0\r\n\r\n$1\r\n0\r\n$20\r\n18446744073709551615\r\n"
        );
    }
}
