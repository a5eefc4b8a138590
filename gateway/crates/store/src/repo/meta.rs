//! Single values of the tenant.

use super::{Read, Write};
use crate::Result;

impl Read<'_> {
    /// A value by its name.
    pub fn meta_get(&self, key: &str) -> Result<Option<String>> {
        self.one("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0))
    }
}

impl Write<'_> {
    /// Sets a value.
    pub fn meta_set(&mut self, key: &str, value: &str) -> Result<()> {
        self.exec("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value", [key, value])?;
        Ok(())
    }

    /// Removes a value. `false`: there was none.
    pub fn meta_delete(&mut self, key: &str) -> Result<bool> {
        Ok(self.exec("DELETE FROM meta WHERE key = ?1", [key])? > 0)
    }
}
