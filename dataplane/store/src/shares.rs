//! Max-min fair shares, between tenants first and then between the runs of each.

use crate::TenantId;
use dflow_protocol::RunId;
use std::collections::BTreeMap;

/// The demand of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) tenant: TenantId,
    pub(crate) run: RunId,
    pub(crate) bytes: u64,
}

/// The share of each run in `limit` bytes. No share exceeds the run's demand, and a run whose share is below its demand
/// has the largest share of its tenant. The same holds between tenants.
pub(crate) fn fair_shares(limit: u64, demands: &[Demand]) -> BTreeMap<RunId, u64> {
    let mut tenants: BTreeMap<TenantId, Vec<&Demand>> = BTreeMap::new();
    for demand in demands {
        tenants.entry(demand.tenant).or_default().push(demand);
    }
    let total = |runs: &Vec<&Demand>| runs.iter().fold(0u64, |sum, demand| sum.saturating_add(demand.bytes));
    let level = water_level(limit, tenants.values().map(total).collect());
    let mut shares = BTreeMap::new();
    for runs in tenants.values() {
        let part = total(runs).min(level);
        let level = water_level(part, runs.iter().map(|demand| demand.bytes).collect());
        shares.extend(runs.iter().map(|demand| (demand.run, demand.bytes.min(level))));
    }
    shares
}

/// The share of one run, as [`fair_shares`] would compute it.
pub(crate) fn fair_share(limit: u64, demands: impl Iterator<Item = Demand> + Clone, of: &Demand) -> u64 {
    let mut tenants: BTreeMap<TenantId, u64> = BTreeMap::new();
    for demand in demands.clone() {
        let total = tenants.entry(demand.tenant).or_default();
        *total = total.saturating_add(demand.bytes);
    }
    let total = tenants.get(&of.tenant).copied().unwrap_or(0);
    let part = total.min(water_level(limit, tenants.into_values().collect()));
    let own = demands.filter(|demand| demand.tenant == of.tenant);
    of.bytes.min(water_level(part, own.map(|demand| demand.bytes).collect()))
}

/// The largest level such that the demands, each cut off at it, fit into `limit`.
fn water_level(limit: u64, mut demands: Vec<u64>) -> u64 {
    demands.sort_unstable();
    let mut left = limit;
    for (index, &demand) in demands.iter().enumerate() {
        let fair = left / (demands.len() - index) as u64;
        if demand > fair {
            return fair;
        }
        left -= demand;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_max_min_fair(
            limit in 0..10_000u64,
            demands in prop::collection::vec((0..4u64, prop_oneof![0..5000u64, Just(u64::MAX)]), 1..12),
        ) {
            let demands: Vec<Demand> = (0..)
                .zip(&demands)
                .map(|(run, &(tenant, bytes))| Demand { tenant: TenantId(tenant), run: RunId(run), bytes })
                .collect();
            let shares = fair_shares(limit, &demands);
            let of = |tenant| demands.iter().filter(move |demand| demand.tenant == tenant);
            let part = |tenant| of(tenant).map(|demand| shares[&demand.run]).sum::<u64>();
            prop_assert!(shares.values().sum::<u64>() <= limit);
            for demand in &demands {
                let share = shares[&demand.run];
                prop_assert_eq!(fair_share(limit, demands.iter().copied(), demand), share);
                prop_assert!(share <= demand.bytes);
                if share == demand.bytes {
                    continue;
                }
                for other in &demands {
                    if other.tenant == demand.tenant {
                        prop_assert!(shares[&other.run] <= share);
                    } else {
                        // Integer division leaves at most a byte for each run.
                        prop_assert!(part(other.tenant) <= part(demand.tenant) + demands.len() as u64);
                    }
                }
            }
        }
    }
}
