//! Commands as they go over the wire.

/// Appends `*n`: a command of so many arguments follows.
pub fn header(out: &mut Vec<u8>, arguments: usize) {
    out.push(b'*');
    digits(out, arguments);
    out.extend_from_slice(b"\r\n");
}

/// Appends one argument.
pub fn argument(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'$');
    digits(out, bytes.len());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes);
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

fn digits(out: &mut Vec<u8>, number: usize) {
    let mut text = [0; 20];
    out.extend_from_slice(decimal(number, &mut text));
}

/// The digits of a number, without a detour over `fmt`: this runs several times a message.
fn decimal(mut number: usize, text: &mut [u8; 20]) -> &[u8] {
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return &text[at..];
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
