//! tmp
pub mod demo;
pub mod pause;
mod print;
pub mod serve;
pub mod usage;
pub mod user;
