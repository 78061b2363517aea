//! Names and templates as the patterns of ACL rules.

use crate::text::template::{Part, Template};

/// What a template can make, as a pattern.
pub(crate) fn glob_of(template: &Template) -> String {
    let glob = |part: &Part| match part {
        Part::Literal(text) => escaped(text),
        _ => "*".to_owned(),
    };
    template.parts().iter().map(glob).collect()
}

/// A name as a pattern that matches it alone, but for white space.
pub(super) fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '*' | '?' | '[' | ']' | '\\' => pattern.extend(['\\', character]),
            _ if character.is_whitespace() => (0..character.len_utf8()).for_each(|_| pattern.push('?')),
            _ => pattern.push(character),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_escaped_to_a_pattern_that_matches_it() {
        assert_eq!(escaped("a*b?[c]\\"), "a\\*b\\?\\[c\\]\\\\");
        assert_eq!(escaped("my stream"), "my?stream");
        assert_eq!(escaped("{a}:b"), "{a}:b");
        let template = Template::parse("{<1>}*:<channel>").unwrap();
        assert_eq!(glob_of(&template), "{*}\\*:*");
    }
}
