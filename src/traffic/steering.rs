//! The steering plan of a NIC: which rules bring each packet to its shard (LUNA §7.4).
//!
//! Pure: (ports, shards, limits of the NIC) to rules; the back ends write them (rte_flow, ntuple).
//! AF_XDP needs none, its program looks ports up.
//!
//! NICs match a field under a mask and have room for few rules. Cutting the port space into equal
//! contiguous shares costs many rules when the number of shards is not a power of two (LUNA needed
//! 160 for 12 threads that talk to 6). Two observations make it one rule per shard and direction:
//!
//! - **As a client** we choose our own port. Each shard chooses from one aligned block of a power
//!   of two ports; what lies between the blocks is never used. A reply finds its shard by the
//!   prefix of its *destination* port.
//! - **As a server** we listen on one port, and the shard is chosen by the low bits of the
//!   *source* port, 2^k ≥ shards values. The 2^k − shards residues left over are never dialled by
//!   peers that know how many shards we have ([`Peers::KnowShards`]: [`Plan::source_port`]); for
//!   all others they are folded onto shards, at a few rules more.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use thiserror::Error;

use super::port_range::{PortBlock, PortSet, aligned_blocks, client_blocks};

/// What a NIC can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most rules.
    pub rules_max: usize,
    /// Rules may differ in their masks. The 82599 and its class have one mask for all.
    pub per_rule_masks: bool,
}

impl Limits {
    /// A NIC that takes whatever we ask for.
    pub const NONE: Self = Self {
        rules_max: usize::MAX,
        per_rule_masks: true,
    };
}

/// Who connects to our listening ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// luna hosts only, that choose source ports with our number of shards in mind.
    KnowShards,
    /// Anybody: every source port must lead to a shard.
    Any,
}

/// What to plan for.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Ports that we listen on, each on all shards.
    pub listen: PortSet,
    /// The ports of our own connections.
    pub client: RangeInclusive<u16>,
    /// How many shards, each with a queue of its number.
    pub shards: u16,
    /// Who dials us.
    pub peers: Peers,
}

/// A port compared under a mask. `mask` 0 matches every port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// What the port must be under the mask.
    pub value: u16,
    /// Which bits count.
    pub mask: u16,
}

impl PortMatch {
    /// Every port.
    pub const ANY: Self = Self { value: 0, mask: 0 };

    /// Whether `port` matches.
    pub const fn matches(self, port: u16) -> bool {
        port & self.mask == self.value
    }

    const fn block(block: PortBlock) -> Self {
        Self {
            value: block.first(),
            mask: block.mask(),
        }
    }
}

/// TCP packets whose ports match go to `shard`'s queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The packet's source port.
    pub source: PortMatch,
    /// The packet's destination port.
    pub destination: PortMatch,
    /// Whose queue.
    pub shard: u16,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// No shard.
    #[error("steering needs at least one shard")]
    NoShards,
    /// A port can't be both.
    #[error(
        "port {port} is both a listening port and a client port: keep LUNA_LISTEN and \
             LUNA_CLIENT_PORTS apart"
    )]
    Overlap {
        /// One such port.
        port: u16,
    },
    /// Not one aligned block for each shard.
    #[error("the client ports {first}-{last} do not hold a block for each of {shards} shards")]
    ClientRangeTooSmall {
        /// The lowest client port.
        first: u16,
        /// The highest client port.
        last: u16,
        /// How many shards.
        shards: u16,
    },
    /// The NIC has no room.
    #[error(
        "steering needs {needed} rules and the NIC takes {rules_max}: use fewer shards, or \
             listening ports that form an aligned power-of-two block"
    )]
    TooManyRules {
        /// What the plan needs.
        needed: usize,
        /// What there is.
        rules_max: usize,
    },
    /// Client and server rules have different masks.
    #[error("the NIC compares all rules under one mask: it can serve clients or one shard only")]
    OneMaskOnly,
}

/// The rules, and what the stack must know to choose ports that they fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    rules: Vec<Rule>,
    client_blocks: Vec<PortBlock>,
    shards: u16,
}

impl Plan {
    /// Makes the plan. The rules do not overlap: their order does not matter.
    ///
    /// # Errors
    ///
    /// [`PlanError`] says what can't be met.
    pub fn new(demand: &Demand, limits: Limits) -> Result<Self, PlanError> {
        let Demand {
            listen,
            client,
            shards,
            peers,
        } = demand;
        let shards = *shards;
        if shards == 0 {
            return Err(PlanError::NoShards);
        }
        if let Some(port) = client.clone().find(|port| listen.contains(*port)) {
            return Err(PlanError::Overlap { port });
        }
        let client_blocks =
            client_blocks(client, usize::from(shards)).ok_or(PlanError::ClientRangeTooSmall {
                first: *client.start(),
                last: *client.end(),
                shards,
            })?;

        let mut rules: Vec<Rule> = (0..shards)
            .zip(&client_blocks)
            .map(|(shard, block)| Rule {
                source: PortMatch::ANY,
                destination: PortMatch::block(*block),
                shard,
            })
            .collect();
        let residues = residues(shards, *peers);
        for block in listen.ranges().iter().flat_map(cover) {
            rules.extend(residues.iter().map(|(source, shard)| Rule {
                source: *source,
                destination: PortMatch::block(block),
                shard: *shard,
            }));
        }

        if rules.len() > limits.rules_max {
            let (needed, rules_max) = (rules.len(), limits.rules_max);
            return Err(PlanError::TooManyRules { needed, rules_max });
        }
        let masks = |rule: &Rule| (rule.source.mask, rule.destination.mask);
        if !limits.per_rule_masks && rules.iter().any(|rule| masks(rule) != masks(&rules[0])) {
            return Err(PlanError::OneMaskOnly);
        }
        Ok(Self {
            rules,
            client_blocks,
            shards,
        })
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The client ports of `shard`.
    pub fn client_block(&self, shard: u16) -> Option<PortBlock> {
        self.client_blocks.get(usize::from(shard)).copied()
    }

    /// The `n`-th port of `shard` from which a connection arrives at shard `peer_shard` of a peer
    /// that has `peer_shards` of them. `None` if there is no such port or shard.
    pub fn source_port(
        &self,
        shard: u16,
        peer_shard: u16,
        peer_shards: u16,
        n: u16,
    ) -> Option<u16> {
        if peer_shard >= peer_shards || shard >= self.shards {
            return None;
        }
        let block = self.client_block(shard)?;
        let step = u32::from(peer_shards).next_power_of_two();
        // The block starts at a multiple of its length, so residues count from its first port if
        // it is at least one step long; a shorter block has one residue per port.
        let first = u32::from(block.first());
        let offset = (u32::from(peer_shard).wrapping_sub(first) & (step - 1)) + u32::from(n) * step;
        (offset < block.len()).then(|| (first + offset) as u16)
    }

    /// Where the rules bring a packet; `None`: to the kernel.
    pub fn shard_of(&self, source: u16, destination: u16) -> Option<u16> {
        self.rules
            .iter()
            .find(|rule| rule.source.matches(source) && rule.destination.matches(destination))
            .map(|rule| rule.shard)
    }
}

/// Which low bits of a source port lead to which shard.
fn residues(shards: u16, peers: Peers) -> Vec<(PortMatch, u16)> {
    let values = u32::from(shards).next_power_of_two();
    let mask = (values - 1) as u16;
    let mut rules: Vec<_> = (0..shards)
        .map(|shard| (PortMatch { value: shard, mask }, shard))
        .collect();
    if peers == Peers::Any {
        // The residues that are left over, one rule each, spread over the first shards: each
        // shard has one or two residues.
        let left_over = u32::from(shards)..values;
        rules.extend(left_over.map(|residue| {
            let value = residue as u16;
            (PortMatch { value, mask }, value - shards)
        }));
    }
    rules
}

/// The fewest aligned blocks that make up `range`.
fn cover(range: &RangeInclusive<u16>) -> Vec<PortBlock> {
    let (mut at, end) = (u32::from(*range.start()), u32::from(*range.end()) + 1);
    let mut blocks = Vec::new();
    while at < end {
        // The longest block that starts here and ends within the range.
        let aligned = if at == 0 {
            16
        } else {
            at.trailing_zeros().min(16)
        };
        let fits = (end - at).ilog2();
        let block = PortBlock::around(at as u16, aligned.min(fits) as u8);
        at += block.len();
        blocks.push(block);
    }
    debug_assert!(blocks.len() <= aligned_blocks(range, 0).len());
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(listen: &str, shards: u16, peers: Peers) -> Demand {
        let listen = PortSet::parse("LUNA_LISTEN", listen).unwrap();
        Demand {
            listen,
            client: 61440..=65535,
            shards,
            peers,
        }
    }

    /// Every packet that must be ours reaches exactly one rule, and no other packet any.
    fn check(demand: &Demand) -> Plan {
        let plan = Plan::new(demand, Limits::NONE).unwrap();
        let values = u32::from(demand.shards).next_power_of_two() as u16;
        let hits = |source: u16, destination: u16| {
            let fits =
                |rule: &&Rule| rule.source.matches(source) && rule.destination.matches(destination);
            plan.rules().iter().filter(fits).count()
        };
        for destination in 0..=u16::MAX {
            let in_block = (0..demand.shards)
                .find(|shard| plan.client_block(*shard).unwrap().contains(destination));
            for source in [0, 1, 6379, 61440, 61441, 61455, 65535] {
                let expected = if demand.listen.contains(destination) {
                    let residue = source & (values - 1);
                    usize::from(demand.peers == Peers::Any || residue < demand.shards)
                } else {
                    usize::from(in_block.is_some())
                };
                assert_eq!(
                    hits(source, destination),
                    expected,
                    "{source} -> {destination}"
                );
                if !demand.listen.contains(destination) {
                    assert_eq!(plan.shard_of(source, destination), in_block);
                }
            }
        }
        for destination in demand.listen.iter().take(3) {
            let mut share = vec![0_u32; usize::from(demand.shards)];
            for source in 0..=u16::MAX {
                let shard = plan.shard_of(source, destination);
                let residue = source & (values - 1);
                if residue < demand.shards {
                    assert_eq!(shard, Some(residue));
                }
                assert_eq!(shard.is_some(), hits(source, destination) == 1);
                if let Some(shard) = shard {
                    share[usize::from(shard)] += 1;
                }
            }
            // No shard has more than two residues.
            let one = 65536 / u32::from(values);
            assert!(
                share.iter().all(|n| (one..=2 * one).contains(n)),
                "{share:?}"
            );
        }
        plan
    }

    #[test]
    fn brute_force_over_all_ports() {
        for shards in [1, 2, 3, 5, 6, 8, 12, 16] {
            for peers in [Peers::KnowShards, Peers::Any] {
                check(&demand("6379", shards, peers));
            }
        }
        check(&demand("80,443,8000-8007", 6, Peers::KnowShards));
        check(&demand("1-1000,61000-61439", 3, Peers::Any));
    }

    #[test]
    fn twelve_threads_and_six_need_24_and_12_rules() {
        let twelve = Plan::new(&demand("6379", 12, Peers::KnowShards), Limits::NONE).unwrap();
        let six = Plan::new(&demand("6379", 6, Peers::KnowShards), Limits::NONE).unwrap();
        assert_eq!((twelve.rules().len(), six.rules().len()), (24, 12));
        let anybody = Plan::new(&demand("6379", 12, Peers::Any), Limits::NONE).unwrap();
        assert_eq!(anybody.rules().len(), 28);

        // The full mesh: every pair of threads, both ways, and the reply comes home.
        for (client, server, clients, servers) in [
            (&twelve, &six, 12, 6),
            (&six, &twelve, 6, 12),
            (&twelve, &twelve, 12, 12),
        ] {
            for a in 0..clients {
                for b in 0..servers {
                    let port = client.source_port(a, b, servers, 3).unwrap();
                    assert_eq!(server.shard_of(port, 6379), Some(b));
                    assert_eq!(client.shard_of(6379, port), Some(a));
                }
            }
        }
    }

    #[test]
    fn source_ports_are_distinct_and_run_out() {
        let plan = Plan::new(&demand("6379", 12, Peers::KnowShards), Limits::NONE).unwrap();
        let mut seen = std::collections::HashSet::new();
        for peer in 0..6 {
            let ports = (0..).map_while(|n| plan.source_port(2, peer, 6, n));
            let count = ports.inspect(|port| assert!(seen.insert(*port))).count();
            assert_eq!(count, 256 / 8);
        }
        assert_eq!(plan.source_port(12, 0, 6, 0), None);
        assert_eq!(plan.source_port(0, 6, 6, 0), None);
    }

    #[test]
    fn impossible_demands_say_why() {
        let new = |demand: &Demand, limits| Plan::new(demand, limits).unwrap_err();
        let ok = demand("6379", 12, Peers::KnowShards);
        assert_eq!(
            new(
                &Demand {
                    shards: 0,
                    ..ok.clone()
                },
                Limits::NONE
            ),
            PlanError::NoShards
        );
        assert_eq!(
            new(&demand("62000", 2, Peers::Any), Limits::NONE),
            PlanError::Overlap { port: 62000 }
        );
        assert_eq!(
            new(
                &Demand {
                    client: 61440..=61445,
                    ..ok.clone()
                },
                Limits::NONE
            ),
            PlanError::ClientRangeTooSmall {
                first: 61440,
                last: 61445,
                shards: 12
            }
        );
        assert_eq!(
            new(
                &ok,
                Limits {
                    rules_max: 23,
                    per_rule_masks: true
                }
            ),
            PlanError::TooManyRules {
                needed: 24,
                rules_max: 23
            }
        );
        assert_eq!(
            new(
                &ok,
                Limits {
                    rules_max: 128,
                    per_rule_masks: false
                }
            ),
            PlanError::OneMaskOnly
        );
        let clients_only = Demand {
            listen: PortSet::empty(),
            ..ok
        };
        let one_mask = Limits {
            rules_max: 128,
            per_rule_masks: false,
        };
        assert_eq!(
            Plan::new(&clients_only, one_mask).unwrap().rules().len(),
            12
        );
    }
}
