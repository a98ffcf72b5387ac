use proptest::prelude::*;

use super::*;

const ME: ReplicaId = ReplicaId(0);
const INTERVAL: u64 = 5_000;

fn cosigner() -> Cosigner {
    Cosigner::new(ME, Size::new(4).unwrap(), INTERVAL)
}

fn head(size: u64) -> Head {
    Head { size, root: Digest([size as u8; 32]) }
}

fn other(size: u64) -> Head {
    Head { size, root: Digest([99; 32]) }
}

/// A claim whose signature is good where its first byte is 1.
fn claim(head: Head, good: bool) -> Claim {
    let mut signature = Signature([7; 64]);
    signature.0[0] = u8::from(good);
    Claim { head, time_s: 1_700_000_000, signature }
}

fn look(cosigner: &mut Cosigner, size: u64) -> Vec<Finding> {
    let root_of = |at| (at <= size).then(|| head(at).root);
    cosigner.look(size, root_of, |_, claim| claim.signature.0[0] == 1)
}

/// By the words of the protocol, with everything remembered.
fn chosen_by_the_rule(heads: &[(u64, bool)]) -> u64 {
    let end = heads.iter().position(|(_, checkpoint)| *checkpoint).map_or(heads.len(), |at| at + 1);
    heads[..end]
        .iter()
        .map(|(sequence, _)| *sequence)
        .max_by_key(|sequence| (sequence.trailing_zeros(), *sequence))
        .unwrap()
}

proptest! {
    #[test]
    fn the_head_with_most_zeros_is_chosen_and_no_checkpoint_is_passed(
        interval in 5u64..40,
        rounds in prop::collection::vec(1u64..90, 1..15),
    ) {
        let mut cosigner = cosigner();
        let (mut sequence, mut now, mut waiting) = (0, 0, Vec::new());
        for executed in rounds {
            for _ in 0..executed {
                sequence += 1;
                let is_checkpoint = sequence % interval == 0;
                cosigner.executed(sequence, head(sequence), is_checkpoint);
                waiting.push((sequence, is_checkpoint));
            }
            let size = cosigner.choose(now).unwrap().size;
            prop_assert_eq!(size, chosen_by_the_rule(&waiting));
            cosigner.promise(head(size), now);
            // Not before the promise is durable, and not before the interval is over.
            prop_assert_eq!(cosigner.choose(u64::MAX / 2), None);
            cosigner.signed(claim(head(size), true), now);
            prop_assert_eq!(cosigner.choose(now + INTERVAL - 1), None);
            waiting.retain(|(sequence, _)| *sequence > size);
            now += INTERVAL;
            if waiting.is_empty() {
                prop_assert_eq!(cosigner.choose(now), None);
            }
        }
    }
}

#[test]
fn nothing_smaller_than_the_promise_is_ever_chosen() {
    let mut cosigner = cosigner();
    cosigner.resume(head(9));
    cosigner.resume(head(4));
    assert_eq!(cosigner.promised(), Some(head(9)));
    for sequence in 1..=9 {
        cosigner.executed(sequence, head(sequence), sequence == 8);
    }
    assert_eq!(cosigner.choose(0), None);
    cosigner.executed(10, head(9), false);
    assert_eq!(cosigner.choose(0), None);
    cosigner.executed(11, head(10), false);
    assert_eq!(cosigner.choose(0), Some(head(10)));
}

#[test]
fn waiting_heads_are_bounded() {
    let mut cosigner = cosigner();
    for sequence in 1..=3 * MAX_WAITING as u64 {
        cosigner.executed(sequence, head(sequence), true);
    }
    assert_eq!(cosigner.waiting.len(), MAX_WAITING);
}

#[test]
fn a_quorum_certifies_and_the_certificate_has_all_who_signed() {
    let mut cosigner = cosigner();
    cosigner.signed(claim(head(5), true), 0);
    cosigner.heard(ReplicaId(1), claim(head(5), true));
    assert!(look(&mut cosigner, 10).is_empty() && cosigner.certified().is_none());
    cosigner.heard(ReplicaId(2), claim(head(6), true));
    cosigner.heard(ReplicaId(3), claim(head(5), true));
    assert!(look(&mut cosigner, 10).is_empty());
    let certified = cosigner.certified().unwrap();
    let signers: Vec<u8> = certified.claims.iter().map(|(replica, _)| replica.0).collect();
    assert_eq!((certified.head, signers), (head(5), vec![0, 1, 3]));
    assert!(cosigner.tells_again(AGAIN_US).is_none());
}

#[test]
fn bad_signatures_count_for_nothing_and_are_reported() {
    let mut cosigner = cosigner();
    cosigner.signed(claim(head(5), true), 0);
    cosigner.heard(ReplicaId(1), claim(head(5), false));
    cosigner.heard(ReplicaId(2), claim(head(5), true));
    assert_eq!(look(&mut cosigner, 10), [Finding::BadSignature(ReplicaId(1))]);
    assert!(cosigner.certified().is_none());
    // A good one later still counts.
    cosigner.heard(ReplicaId(3), claim(head(5), true));
    assert!(look(&mut cosigner, 10).is_empty());
    assert_eq!(cosigner.certified().unwrap().head, head(5));
}

#[test]
fn one_who_signs_another_root_is_a_liar_and_a_quorum_of_others_means_divergence() {
    let mut liar = cosigner();
    liar.signed(claim(head(5), true), 0);
    liar.heard(ReplicaId(1), claim(head(5), true));
    liar.heard(ReplicaId(2), claim(other(5), true));
    liar.heard(ReplicaId(3), claim(head(5), true));
    assert_eq!(look(&mut liar, 10), [Finding::Lie(ReplicaId(2), claim(other(5), true))]);

    let mut diverged = cosigner();
    diverged.signed(claim(head(5), true), 0);
    for replica in 1..4 {
        diverged.heard(ReplicaId(replica), claim(other(5), true));
    }
    let findings = look(&mut diverged, 10);
    assert!(matches!(&findings[..], [Finding::Diverged(certified)] if certified.claims.len() == 3), "{findings:?}");
    assert!(diverged.certified().is_none());
}

#[test]
fn what_is_signed_ahead_of_the_own_history_is_looked_at_once_it_is_there() {
    let mut cosigner = cosigner();
    for replica in 1..4 {
        cosigner.heard(ReplicaId(replica), claim(other(7), true));
    }
    assert!(look(&mut cosigner, 6).is_empty());
    cosigner.executed(6, head(6), false);
    assert!(!cosigner.has_news());
    cosigner.executed(7, head(7), false);
    assert!(cosigner.has_news());
    assert!(matches!(&look(&mut cosigner, 7)[..], [Finding::Diverged(_)]));
}

#[test]
fn what_nobody_certified_is_told_again() {
    let mut cosigner = cosigner();
    assert_eq!(cosigner.due_us(), u64::MAX);
    cosigner.signed(claim(head(5), true), 100);
    assert_eq!(cosigner.due_us(), 100 + AGAIN_US);
    assert!(cosigner.tells_again(99 + AGAIN_US).is_none());
    assert_eq!(cosigner.tells_again(100 + AGAIN_US), Some(claim(head(5), true)));
    assert!(cosigner.tells_again(100 + AGAIN_US).is_none());
}

#[test]
fn claims_are_bounded_and_old_ones_are_dropped() {
    let mut cosigner = cosigner();
    for size in 1..=2 * MAX_CLAIMS as u64 {
        cosigner.heard(ReplicaId(1), claim(head(size), true));
    }
    cosigner.heard(ReplicaId(1), claim(head(3), true));
    cosigner.heard(ReplicaId(9), claim(head(3), true));
    assert_eq!(cosigner.claims[1].len(), MAX_CLAIMS);
    assert_eq!(cosigner.claims[1].back().unwrap().claim.head, head(2 * MAX_CLAIMS as u64));
}

#[test]
fn one_that_may_not_sign_forgets_what_waits_and_keeps_its_promise() {
    let mut cosigner = cosigner();
    cosigner.executed(8, head(8), true);
    cosigner.promise(head(5), 0);
    cosigner.rests();
    assert_eq!((cosigner.choose(u64::MAX), cosigner.own()), (None, None));
    cosigner.executed(9, head(5), false);
    assert_eq!(cosigner.choose(u64::MAX), None);
    cosigner.executed(10, head(6), false);
    assert_eq!(cosigner.choose(u64::MAX), Some(head(6)));
}

#[test]
fn what_is_here_is_certified_though_more_is_signed_ahead() {
    let mut cosigner = cosigner();
    for replica in 1..4 {
        cosigner.heard(ReplicaId(replica), claim(head(5), true));
        cosigner.heard(ReplicaId(replica), claim(head(9), true));
    }
    assert!(look(&mut cosigner, 6).is_empty());
    assert_eq!(cosigner.certified().unwrap().head, head(5));
    cosigner.executed(9, head(9), false);
    assert!(look(&mut cosigner, 9).is_empty());
    assert_eq!(cosigner.certified().unwrap().head, head(9));
}

fn sign(cosigner: &mut Cosigner, now: u64) -> Option<u64> {
    let chosen = cosigner.choose(now)?;
    cosigner.promise(chosen, now);
    cosigner.signed(claim(chosen, true), now);
    Some(chosen.size)
}

#[test]
fn signers_in_a_hurry_sign_the_same_heads_and_rest_again_later() {
    // Heads come 700 us apart, and these two look at other times.
    let mut both = [
        (Cosigner::new(ME, Size::new(4).unwrap(), 50_000), 0),
        (Cosigner::new(ME, Size::new(4).unwrap(), 50_000), 450),
    ];
    let mut signed = [Vec::new(), Vec::new()];
    let (first, last) = (1_000, 1_140);
    for sequence in first..=last {
        for ((cosigner, late), signed) in both.iter_mut().zip(&mut signed) {
            let now = sequence * 700 + *late;
            if sequence == first + 10 {
                cosigner.hurry(now);
            }
            cosigner.executed(sequence, head(sequence), false);
            signed.extend(sign(cosigner, now));
        }
    }
    let in_a_hurry: Vec<u64> = (first + 16..first + 140).filter(|sequence| sequence % 4 == 0).collect();
    for signed in &signed {
        let hurried: Vec<u64> =
            signed.iter().copied().filter(|size| (first + 16..first + 140).contains(size)).collect();
        assert_eq!(hurried, in_a_hurry);
    }
    // Nobody has asked for long: the next one waits for its time again.
    let (cosigner, _) = &mut both[0];
    let now = (first + 10) * 700 + HURRY_FOR_US + 50_000;
    cosigner.executed(2_048, head(2_048), false);
    assert_eq!(sign(cosigner, now), Some(2_048));
    cosigner.executed(4_096, head(4_096), false);
    assert_eq!((sign(cosigner, now + 49_999), cosigner.due_us()), (None, now + 50_000));
    assert_eq!(sign(cosigner, now + 50_000), Some(4_096));
}

#[test]
fn one_in_a_hurry_signs_at_once_where_little_happens() {
    let mut cosigner = cosigner();
    cosigner.hurry(0);
    for sequence in 1..30 {
        let now = sequence * (HURRY_US + 100);
        cosigner.executed(sequence, head(sequence), false);
        assert_eq!(sign(&mut cosigner, now), Some(sequence));
    }
}

#[test]
fn one_in_a_hurry_waits_for_a_round_number_no_longer_than_it_may() {
    let mut cosigner = Cosigner::new(ME, Size::new(4).unwrap(), 1_000_000);
    cosigner.executed(1, head(1), false);
    assert_eq!(sign(&mut cosigner, 0), Some(1));
    cosigner.hurry(1_000);
    for sequence in 2..=16 {
        cosigner.executed(sequence, head(sequence), false);
    }
    assert_eq!(sign(&mut cosigner, 1_000), Some(16));
    // After 15 in a millisecond only every 32nd is round.
    cosigner.executed(17, head(17), false);
    assert_eq!((sign(&mut cosigner, 8_999), cosigner.due_us()), (None, 1_000 + HURRY_AT_MOST_US));
    assert_eq!(sign(&mut cosigner, 1_000 + HURRY_AT_MOST_US), Some(17));
}
