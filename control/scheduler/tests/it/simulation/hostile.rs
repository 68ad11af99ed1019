//! Facts that make no sense.

use super::Choices;
use dflow_scheduler::{
    AttemptProgress, Epoch, Fact, InstanceId, InstanceStanding, Inventory, KnownParts, Standing, StreamCopy, StreamId,
};

pub fn fact(choices: &mut Choices) -> Fact {
    let kind = choices.below(29);
    let instance = InstanceId(id(choices));
    let attempt = choices.below(5) as u32;
    let number = choices.below(5) as u32;
    let stream = StreamId(id(choices));
    let reason = "so".to_owned();
    let flag = choices.once_in(2);
    match kind {
        0 => Fact::Began { instance, attempt },
        1 => Fact::Started { instance, attempt },
        2 => Fact::PartOpened { instance, attempt, output: number, first: None },
        3 | 4 => {
            let first = Some((InstanceId(id(choices)), stream));
            Fact::PartOpened { instance, attempt, output: number, first }
        }
        5 => Fact::PartsComplete { instance, attempt, output: number },
        6 => Fact::Value { stream, epoch: Epoch(attempt), text: "a".repeat(if flag { 1 } else { 1000 }) },
        7 => Fact::Voided { instance, attempt, reason },
        8 => Fact::Suspended { instance, attempt },
        9 => Fact::Ended { instance, attempt, unread: flag },
        10 => Fact::Settled { instance },
        11 => Fact::Chose { instance, input: number, winners: vec![stream; attempt as usize], is_final: flag },
        12 => Fact::Dropped { instance },
        13 => Fact::Lost { instance, reason },
        14 => Fact::Cut { instance },
        15 => Fact::Failed { instance: flag.then_some(instance), reason },
        16 => {
            let member = Standing { instance, attempt, has_started: flag };
            Fact::Proposed { round: u64::from(number), members: vec![member] }
        }
        17 => Fact::Answered { round: u64::from(number), holds: flag },
        18 => Fact::Decided { round: u64::from(number), released: flag },
        19 => Fact::Freeze { generation: u64::from(number), lost: vec![attempt; choices.below(3)] },
        20 => Fact::Frozen { generation: u64::from(number), inventory: inventory(choices), is_last: flag },
        21 => Fact::Restoring { generation: u64::from(number) },
        22 => {
            let first = (InstanceId(id(choices)), stream);
            Fact::PartKnown { instance, output: number, part: attempt, first }
        }
        23 => {
            use AttemptProgress::{Alive, Ended, Suspended, Unread, Void};
            let progress = [Void, Suspended, Alive, Ended, Unread][choices.below(5)];
            let (base, retries_used) = (number, number);
            let (is_dropped, is_cut) = (choices.once_in(5), choices.once_in(5));
            let standing = InstanceStanding { instance, attempt, base, retries_used, progress, is_dropped, is_cut };
            Fact::Stands { instances: vec![standing] }
        }
        24 => {
            let bases = vec![number; choices.below(4)];
            Fact::PartsStand { instance, attempt, output: number, bases, is_closed: flag }
        }
        25 | 26 => {
            let places = vec![(number, vec![attempt; choices.below(3)])];
            let decided = vec![choices.below(3) as u32];
            Fact::Resume { generation: u64::from(number), places, again: vec![(instance, attempt)], decided }
        }
        27 => Fact::Resumed { generation: u64::from(number) },
        _ => [Fact::Emptied, Fact::Watch, Fact::Quiet { told: 1, heard: 2 }][choices.below(3)].clone(),
    }
}

fn inventory(choices: &mut Choices) -> Inventory {
    let (stream, instance) = (StreamId(id(choices)), InstanceId(id(choices)));
    let attempt = choices.below(4) as u32;
    let [is_whole, is_complete, is_broken] = [(); 3].map(|()| choices.once_in(2));
    Inventory {
        copies: vec![StreamCopy { stream, epoch: Epoch(attempt), is_whole, is_complete, is_broken }],
        reading: vec![instance],
        retired: vec![instance],
        lost: vec![(instance, attempt, is_whole)],
        parts: vec![KnownParts {
            instance,
            output: attempt,
            first: vec![(InstanceId(id(choices)), stream); choices.below(3)],
        }],
    }
}

/// Of an object of the plan, of one that a node may have discovered, or of none.
fn id(choices: &mut Choices) -> u32 {
    match choices.below(8) {
        0 => (1 + choices.below(4) as u32) << 20 | choices.below(6) as u32,
        1 => u32::MAX - choices.below(3) as u32,
        _ => choices.below(20) as u32,
    }
}
