//! Another process of the product beside a door's own: the same settings, the same ledger, a port of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use super::caller::{Front, User};
use super::process::Process;

/// Made by [`super::door::Door::beside`]; the door's oracle hears what was said to it too.
pub(crate) struct Sibling {
    pub(crate) front: Arc<Front>,
    pub(crate) process: Process,
}

impl Default for Sibling {
    fn default() -> Self {
        Self {
            front: Arc::new(Front::new(SocketAddr::from(([127, 0, 0, 1], 1)))),
            process: Process::default(),
        }
    }
}

impl Sibling {
    /// The same user, calling here.
    pub(crate) fn of(&self, user: &User) -> User {
        User {
            front: self.front.clone(),
            ..user.clone()
        }
    }
}
