//! A user as an operator reads it: the command that makes it, and what to know of it.

use std::fmt;

use super::rights::{CHECK_LEARNS, OPTIONAL};
use super::user::User;
use crate::text::printable;

impl User {
    /// The rules behind `ACL SETUSER NAME`.
    #[must_use]
    pub fn rules(&self, password: &PasswordRule) -> Vec<String> {
        let mut rules = vec!["reset".to_owned(), "on".to_owned(), password.to_string()];
        // Redis takes no further rule of a kind after the one that allows all.
        if self.keys.contains("~*") {
            rules.push("allkeys".to_owned());
        } else {
            rules.extend(self.keys.iter().cloned());
        }
        if self.unnameable.is_empty() && !self.channels.contains("&*") {
            rules.push("resetchannels".to_owned());
            rules.extend(self.channels.iter().cloned());
        } else {
            rules.push("allchannels".to_owned());
        }
        rules.extend(self.commands().into_iter().map(|command| format!("+{command}")));
        rules
    }

    /// The command that makes the user, as `redis-cli` reads it.
    #[must_use]
    pub fn command(&self, password: &PasswordRule) -> String {
        let rules: Vec<String> = self.rules(password).iter().map(|rule| quoted(rule)).collect();
        format!("ACL SETUSER {} {}", quoted(&self.name), rules.join(" "))
    }

    /// What an operator wants to know of the command: its server, why it is needed, and what may be added. `redis-cli`
    /// knows no comments, so these lines must not stand among commands.
    #[must_use]
    pub fn comments(&self) -> Vec<String> {
        let endpoints: Vec<&str> = self.endpoints.iter().map(String::as_str).collect();
        let mut lines = vec![format!("# server {}", endpoints.join(" and "))];
        for (role, routes) in &self.roles {
            // A line break would end the comment.
            let routes: Vec<String> = routes.iter().map(|route| printable::text(route.as_bytes())).collect();
            lines.push(format!("#   {role} {}", routes.join(", ")));
        }
        for pattern in &self.unnameable {
            lines.push(format!(
                "#   the pattern \"{}\" has a space, which no rule can hold: all channels are allowed",
                printable::text(pattern.as_bytes())
            ));
        }
        if self.is_checked() {
            lines.push(format!(
                "#   optional: ACL SETUSER {} +{OPTIONAL} (it shows requirepass and masterauth as well)",
                quoted(&self.name)
            ));
            let learns = [CHECK_LEARNS].iter().chain(&self.learns);
            lines.extend(learns.map(|learns| format!("#     with it {learns}")));
        }
        lines
    }
}

/// The rule for a user's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordRule {
    /// The user needs none.
    None,
    /// The password itself.
    Plain(String),
    /// The SHA-256 of the password, in hexadecimal digits.
    Hash(String),
    /// A word to be replaced. Redis refuses it, so a line that was run as it is makes no user with a known password.
    Missing,
}

impl fmt::Display for PasswordRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nopass"),
            Self::Plain(password) => write!(f, ">{password}"),
            Self::Hash(hash) => write!(f, "#{hash}"),
            Self::Missing => f.write_str("PASSWORD"),
        }
    }
}

/// A word as `redis-cli` takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !printable::is_harmful(c) && !matches!(c, '"' | '\'');
    if word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            _ if printable::is_harmful(character) => {
                let mut buffer = [0; 4];
                let bytes = character.encode_utf8(&mut buffer).bytes();
                text.extend(bytes.map(|byte| format!("\\x{byte:02x}")));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_they_must_be() {
        assert_eq!(quoted("&orders.[a-c]\\*"), "&orders.[a-c]\\*");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a\"\n"), "\"a\\\"\\x0a\"");
        assert_eq!(quoted("a\u{9b}é"), "\"a\\xc2\\x9bé\"");
    }
}
