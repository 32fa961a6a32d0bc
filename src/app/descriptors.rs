//! How many connections and open requests the file descriptors of this process are enough for.
//!
//! An open request holds one descriptor to its upstream, also when its caller has left and the answer is read to its
//! end. Each other upstream may keep as many idle connections. A reserve stays free for everything that is not a user's
//! request.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// For everything but users' connections and upstreams: the operator's listener, the ledger, the developer's database, keys,
/// the collector.
const RESERVED: usize = 192;
/// Connections beyond the open requests: idle ones, and those that are still sending.
const SPARE_CONNECTIONS: usize = 1024;

/// Raises the limit of descriptors to the most that this process may have: many systems start with 1024.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    ) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The descriptors that users' requests may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptors {
    /// All that this process may have.
    all: usize,
    upstreams: usize,
}

impl Descriptors {
    /// Those that this process has now.
    pub(crate) fn now(config: &Config) -> Self {
        Self::of(getrlimit(Resource::Nofile).current, config)
    }

    /// Those that this process can have.
    pub(crate) fn at_most(config: &Config) -> Self {
        Self::of(getrlimit(Resource::Nofile).maximum, config)
    }

    fn of(limit: Option<u64>, config: &Config) -> Self {
        let all = limit
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        Self {
            all,
            upstreams: config.upstreams.len().max(1),
        }
    }

    /// How many requests may be open.
    pub(crate) const fn open_requests(self) -> usize {
        let most = self
            .for_users()
            .div_euclid(self.upstreams.saturating_add(1));
        if most == 0 { 1 } else { most }
    }

    /// How many connections users may have if this many requests may be open.
    pub(crate) fn connections(self, open_requests_max: usize) -> usize {
        let open = open_requests_max.min(self.open_requests());
        let left = self
            .for_users()
            .saturating_sub(open.saturating_mul(self.upstreams))
            .max(1);
        open_requests_max
            .saturating_add(SPARE_CONNECTIONS)
            .min(left)
    }

    /// What to say where they are too few for the settings.
    pub(crate) fn too_few(self, open_requests_max: usize) -> Option<String> {
        let open = self.open_requests();
        if open >= open_requests_max {
            return None;
        }
        let Self { all, upstreams } = self;
        let needed = open_requests_max
            .saturating_mul(upstreams.saturating_add(1))
            .saturating_add(RESERVED);
        Some(format!(
            "[server] open_requests_max = {open_requests_max} needs {needed} open files, and {all} are allowed: no more than \
             {open} requests are open at once. Raise the limit (`ulimit -n {needed}`, LimitNOFILE= of systemd), or set \
             open_requests_max = {open}"
        ))
    }

    const fn for_users(self) -> usize {
        self.all.saturating_sub(RESERVED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_upstreams_together_never_need_more_than_there_are() {
        for upstreams in [1, 2, 5] {
            for all in [256, 1024, 4096, 9000, 20_000, 65_536, usize::MAX] {
                for wanted in [1, 100, 4096, 1_000_000] {
                    let descriptors = Descriptors { all, upstreams };
                    let open = wanted.min(descriptors.open_requests());
                    let connections = descriptors.connections(wanted);
                    assert!(
                        connections + open * upstreams + RESERVED <= all,
                        "{all} for {upstreams}: {wanted}"
                    );
                    assert!(
                        connections >= open && open > 0,
                        "{all} for {upstreams}: {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn too_few_are_told_with_the_number_that_is_enough() {
        let of = |all| Descriptors { all, upstreams: 1 };
        assert_eq!(of(65_536).too_few(4096), None);
        let told = of(1024).too_few(4096).unwrap();
        assert!(
            told.contains("ulimit -n 8384") && told.contains("open_requests_max = 416"),
            "{told}"
        );
        assert_eq!(of(8384).too_few(4096), None);
        assert_eq!(of(1024).too_few(416), None);
        let none = of(0);
        assert_eq!(
            (none.open_requests(), none.connections(4096)),
            (1, 1),
            "one at a time is served as far as it goes"
        );
    }
}
