//! The settings that connections of one shard share.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use crate::tcp::{Config, SharedConfig};

/// Different settings kept for sharing. Applications use one or two; each listener, and each
/// path MTU, may make another.
const KEPT: usize = 8;

/// The settings used lately, so that connections made alike share theirs.
#[derive(Debug, Default)]
pub(super) struct Configs {
    kept: ArrayVec<SharedConfig, KEPT>,
    oldest: usize,
}

impl Configs {
    /// `config`, shared with the connections that were made with an equal one.
    pub(super) fn share(&mut self, config: Config) -> SharedConfig {
        if let Some(same) = self.kept.iter().find(|kept| ***kept == config) {
            return same.clone();
        }
        let shared = SharedConfig::from(&config);
        if let Err(full) = self.kept.try_push(shared.clone()) {
            if let Some(slot) = self.kept.get_mut(self.oldest) {
                *slot = full.element();
            }
            self.oldest = (self.oldest + 1) % KEPT;
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_settings_are_shared_and_the_oldest_give_way() {
        let mut configs = Configs::default();
        let with_seed = |seed| Config {
            seed,
            ..Config::default()
        };
        let same = |a: &SharedConfig, b: &SharedConfig| core::ptr::eq::<Config>(&**a, &**b);
        let first = configs.share(with_seed(0));
        assert!(same(&first, &configs.share(with_seed(0))));
        for seed in 1..=KEPT as u64 {
            configs.share(with_seed(seed));
        }
        assert!(!same(&first, &configs.share(with_seed(0))));
        assert_eq!(configs.kept.len(), KEPT);
    }
}
