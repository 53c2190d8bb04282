//! The kernel's lists of free pages, one for each core, which a run may want short.
//!
//! Since Linux 6.7 they grow by themselves. When a kernel client's requests are freed on luna's
//! core, where their acknowledgments arrive, each page goes from core to core through two lists of
//! hundreds of MB before it is written again: the client then writes to memory that no cache has.

use std::fs;

use crate::doctor::PAGE_LISTS;

/// A few MB, as much as a core's own cache.
const SHORT: &str = "2000";

/// Short lists, on the whole machine, until it is dropped.
#[derive(Debug)]
pub(super) struct ShortLists {
    before: String,
}

impl ShortLists {
    pub(super) fn set() -> Result<Self, String> {
        let failed = |error| format!("{PAGE_LISTS}: {error}");
        let before = fs::read_to_string(PAGE_LISTS).map_err(failed)?;
        fs::write(PAGE_LISTS, SHORT).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for ShortLists {
    fn drop(&mut self) {
        if let Err(error) = fs::write(PAGE_LISTS, self.before.trim()) {
            crate::show::note(&format!("{PAGE_LISTS} stays at {SHORT}: {error}"));
        }
    }
}
