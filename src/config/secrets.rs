//! Refuses secrets that are too short, published, or guessable.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;

use super::findings::Problem;

/// The secret that the Supabase CLI gives every local project. It is public.
const SUPABASE_LOCAL: &str = "super-secret-jwt-token-with-at-least-32-characters-long";
/// HS256 wants a key at least as long as its digest (RFC 7518 §3.2).
const BYTES_MIN: usize = 32;

/// Secrets from documentation and examples that [`WORDS`] does not cover.
const PUBLISHED: [&str; 2] = [
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
];

/// What guessable secrets are made of.
const WORDS: [&str; 24] = [
    "supersecret",
    "changeme",
    "changethis",
    "characters",
    "password",
    "supabase",
    "secret",
    "please",
    "super",
    "token",
    "least",
    "change",
    "this",
    "with",
    "your",
    "long",
    "1234567890",
    "0123456789",
    "12345678",
    "abcdefgh",
    "jwt",
    "key",
    "32",
    "at",
];

/// Quotes that somebody writes around a value, and the one that closes each.
const QUOTES: [(char, char); 8] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('\u{201C}', '\u{201D}'),
    ('\u{201E}', '\u{201C}'),
    ('\u{201D}', '\u{201D}'),
    ('\u{2018}', '\u{2019}'),
    ('\u{AB}', '\u{BB}'),
];

/// Refuses what is not part of a secret: quotes around it (`docker run --env-file` keeps them), white
/// space at an end. What it was kept for would never match.
pub(super) fn bare(text: &str) -> Result<(), Problem> {
    let mut letters = text.chars();
    if let (Some(first), Some(last)) = (letters.next(), letters.next_back())
        && QUOTES.contains(&(first, last))
    {
        let fix = "write it without them (docker's --env-file and env_file keep quotes as part of a value)";
        return Err(Problem::new("has quotes around it", fix));
    }
    // Invisible characters count as white space.
    let is_white =
        |letter: char| letter.is_whitespace() || matches!(letter, '\u{200B}' | '\u{FEFF}' | '\0');
    if text.starts_with(is_white) || text.ends_with(is_white) {
        let fix = "take away the blank or line break before or behind it";
        return Err(Problem::new("has white space at an end", fix));
    }
    Ok(())
}

/// Refuses a secret that is public or can be guessed. `is_local`: the Supabase project runs on this machine.
pub(super) fn jwt_secret(text: &str, is_local: bool) -> Result<(), Problem> {
    let fix = "copy it from the Supabase dashboard (Settings, JWT keys), or make one with: openssl rand -base64 48";
    if text.len() < BYTES_MIN {
        return Err(Problem::new(
            format!("is shorter than {BYTES_MIN} bytes"),
            fix,
        ));
    }
    if text == SUPABASE_LOCAL {
        let fix = format!("use it only with a SUPABASE_URL on this machine; otherwise {fix}");
        return if is_local {
            Ok(())
        } else {
            Err(Problem::new(
                "is the secret of every local Supabase project",
                fix,
            ))
        };
    }
    if is_guessable(text) {
        return Err(Problem::new("is well known, or can be guessed", fix));
    }
    Ok(())
}

/// Reads Supabase's service key. Keys that belong into apps are refused.
pub(super) fn service_key(text: &str) -> Result<SecretString, Problem> {
    let fix = "copy the secret key (sb_secret_…) or the service_role key from the Supabase dashboard (Settings, API keys)";
    if text.trim().is_empty() {
        return Err(Problem::new(
            "is an empty secret",
            "give it a value, or take it out altogether",
        ));
    }
    bare(text)?;
    if text.starts_with("sb_publishable_") {
        return Err(Problem::new(
            "is the publishable key, which may do nothing here",
            fix,
        ));
    }
    if role(text).is_some_and(|role| role != "service_role") {
        return Err(Problem::new(
            "is the anon key or a user's token, which may do nothing here",
            fix,
        ));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::new(
            "holds a space or another letter that no key has",
            fix,
        ));
    }
    Ok(SecretString::from(text))
}

/// The role that a legacy key, which is a JWT, names. Unverified: only Supabase can.
fn role(text: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    claims.get("role")?.as_str().map(str::to_owned)
}

fn is_guessable(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let published = PUBLISHED.contains(&lower.as_str());
    let letters: std::collections::BTreeSet<char> = lower.chars().collect();
    let left = WORDS
        .iter()
        .fold(lower.clone(), |left, word| left.replace(word, " "));
    let own = left.chars().filter(char::is_ascii_alphanumeric).count();
    // Random text of 32 letters has far more than eight different ones, and hardly any of these words.
    published || letters.len() < 8 || own < 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_blanks_around_a_secret_are_refused() {
        for wrong in [
            "\"abc\"",
            "'abc'",
            "`abc`",
            "“abc”",
            "‘abc’",
            "«abc»",
            " abc",
            "abc ",
            "abc\n",
            "abc\u{a0}",
            "\u{feff}abc",
        ] {
            assert!(bare(wrong).is_err(), "{wrong:?}");
        }
        for right in ["abc", "a'b'c", "\"abc", "abc'", "a b", "'", "\""] {
            assert!(bare(right).is_ok(), "{right:?}");
        }
    }

    #[test]
    fn a_legacy_key_counts_only_with_the_role_of_servers() {
        let key = |claims: &str| {
            format!(
                "{}.{}.sig",
                URL_SAFE_NO_PAD.encode("{}"),
                URL_SAFE_NO_PAD.encode(claims)
            )
        };
        assert!(service_key(&key(r#"{"role":"service_role"}"#)).is_ok());
        assert!(service_key("sb_secret_x").is_ok());
        for role in ["anon", "authenticated"] {
            assert!(
                service_key(&key(&format!(r#"{{"role":"{role}"}}"#))).is_err(),
                "{role}"
            );
        }
    }

    #[test]
    fn guessable_secrets_are_refused_and_random_ones_are_not() {
        for weak in [
            "",
            "short",
            "your-super-secret-jwt-token-with-at-least-32-characters-long",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "changeme-changeme-changeme-changeme-1234567890",
            "secretsecretsecretsecretsecretsecret",
            "SECRET-0123456789-0123456789-0123456789",
            "a-string-secret-at-least-256-bits-long",
            "abababababababababababababababababab",
            SUPABASE_LOCAL,
        ] {
            assert!(jwt_secret(weak, false).is_err(), "{weak}");
        }
        for strong in [
            "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa",
            "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92",
        ] {
            assert!(jwt_secret(strong, false).is_ok(), "{strong}");
        }
        assert!(jwt_secret(SUPABASE_LOCAL, true).is_ok());
        assert!(jwt_secret("changeme-changeme-changeme-changeme-1234567890", true).is_err());
    }
}
