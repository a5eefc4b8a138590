//! Two tenants in one gateway, both at once: nothing of one reaches the other.
