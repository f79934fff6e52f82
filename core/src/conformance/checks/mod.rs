//! The checks, by subject.

pub(super) mod accounts;
pub(super) mod cancellation;
pub(super) mod endings;
pub(super) mod integrity;
pub(super) mod order;
pub(super) mod peers;
pub(super) mod release;
pub(super) mod revoke;
