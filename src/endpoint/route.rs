//! Which route of an endpoint a path is, and what stands in it for the route's parameter. Pure.

use std::borrow::Cow;

/// How a route ends that has a parameter: one segment of any text.
const PARAMETER: &str = "{name}";
/// How much of a parameter is kept: more than any name that is known.
const PARAMETER_CHARS_MAX: usize = 128;

/// Where a request came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// As in `Spec::paths`, such as `/api/prompts/{name}`. There are few: metrics and spans go by it.
    pub pattern: &'static str,
    /// What stands for `{name}`, as it came: the caller's text, until the endpoint knows the name.
    pub parameter: Option<Box<str>>,
}

impl Route {
    /// A route without a parameter.
    #[must_use]
    pub const fn plain(pattern: &'static str) -> Self {
        Self {
            pattern,
            parameter: None,
        }
    }

    /// A path as this route, if it is.
    pub(super) fn of(pattern: &'static str, path: &str) -> Option<Self> {
        let Some(before) = pattern.strip_suffix(PARAMETER) else {
            return (pattern == path).then_some(Self::plain(pattern));
        };
        let parameter = path.strip_prefix(before)?;
        let is_segment = !parameter.is_empty() && !parameter.contains('/');
        is_segment.then(|| Self {
            pattern,
            parameter: Some(parameter.chars().take(PARAMETER_CHARS_MAX).collect()),
        })
    }

    /// The path, with what stands for the parameter: for the log and the row.
    #[must_use]
    pub fn path(&self) -> Cow<'static, str> {
        match (&self.parameter, self.pattern.strip_suffix(PARAMETER)) {
            (Some(parameter), Some(before)) => Cow::Owned(format!("{before}{parameter}")),
            _ => Cow::Borrowed(self.pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_route_and_the_route_is_that_path() {
        let chat = Route::of("/api/chat", "/api/chat");
        assert_eq!(chat, Some(Route::plain("/api/chat")));
        assert_eq!(chat.map(|route| route.path()), Some("/api/chat".into()));
        let pattern = "/api/prompts/{name}";
        for name in ["summarize", "{name}", "a%20b"] {
            let path = format!("/api/prompts/{name}");
            let route = Route::of(pattern, &path).unwrap();
            assert_eq!(
                (route.pattern, route.parameter.as_deref()),
                (pattern, Some(name))
            );
            assert_eq!(route.path(), path);
        }
        for path in ["/api/prompts/", "/api/prompts", "/api/prompts/a/b", "/"] {
            assert_eq!(Route::of(pattern, path), None, "{path}");
        }
    }

    #[test]
    fn of_a_long_parameter_only_the_beginning_is_kept() {
        let path = format!("/api/prompts/{}", "é".repeat(10_000));
        let route = Route::of("/api/prompts/{name}", &path).unwrap();
        let kept = route.parameter.unwrap().chars().count();
        assert_eq!(kept, PARAMETER_CHARS_MAX);
    }
}
