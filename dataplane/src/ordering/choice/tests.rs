use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 8;
const A: Digest = Digest([1; 32]);
const B: Digest = Digest([2; 32]);

fn size(n: usize) -> Size {
    Size::new(n).unwrap()
}

fn entry(sequence: Sequence, digest: Digest, view: View) -> Entry {
    Entry { sequence, digest, view }
}

fn report(h: Sequence, prepared: &[Entry], pre_prepared: &[Entry]) -> Report {
    Report { h, prepared: prepared.to_vec(), pre_prepared: pre_prepared.to_vec() }
}

fn chosen(n: usize, reports: &[Report]) -> Choice {
    let set: Vec<_> = reports.iter().enumerate().map(|(i, report)| (ReplicaId(i as u8), report)).collect();
    choose(&set, size(n))
}

fn choices(start: Sequence, digests: &[Digest]) -> Choice {
    Choice::Choices(Choices { start, digests: digests.to_vec() })
}

#[test]
fn a_report_must_be_canonical_in_range_and_of_lower_views() {
    let valid = |report: Report| report.validate(3, WINDOW, size(4));
    let good = report(5, &[entry(6, A, 2), entry(13, A, 0)], &[entry(6, A, 2), entry(6, B, 1), entry(13, A, 0)]);
    assert_eq!(valid(good), Ok(()));
    let (p, q) = (List::Prepared, List::PrePrepared);
    let range = |list, sequence| Err(Invalid::Range { list, sequence, h: 5, window: WINDOW });
    assert_eq!(valid(report(5, &[entry(5, A, 0)], &[])), range(p, 5));
    assert_eq!(valid(report(5, &[], &[entry(14, A, 0)])), range(q, 14));
    let late = Err(Invalid::View { list: q, sequence: 6, view: 3, new_view: 3 });
    assert_eq!(valid(report(5, &[], &[entry(6, A, 3)])), late);
    let order = |list, sequence| Err(Invalid::Order { list, sequence });
    assert_eq!(valid(report(5, &[entry(6, A, 0), entry(6, B, 0)], &[])), order(p, 6), "two P at one sequence");
    assert_eq!(valid(report(5, &[], &[entry(6, A, 0), entry(6, A, 1)])), order(q, 6), "a digest twice");
    assert_eq!(valid(report(5, &[], &[entry(6, B, 0), entry(6, A, 1)])), order(q, 6));
    assert_eq!(valid(report(5, &[], &[entry(7, A, 0), entry(6, A, 1)])), order(q, 6));
    assert!(report(u64::MAX, &[], &[entry(1, A, 0)]).validate(1, WINDOW, size(4)).is_err());
}

#[test]
fn a_replica_full_of_digests_takes_only_choices_and_its_report_stays_valid() {
    let mut held = Held::default();
    let free = |i: usize| Digest([i as u8 + 1; 32]);
    for i in 0..MAX_FREE_DIGESTS {
        assert!(held.accepts(1, free(i)));
        held.pre_prepare(i as View, 1, free(i));
    }
    assert!(held.accepts(1, free(0)), "one that it holds");
    assert!(!held.accepts(1, free(MAX_FREE_DIGESTS)));
    assert!(held.accepts(2, free(MAX_FREE_DIGESTS)), "another sequence");
    // The choices that it may have to take: null here, and others' free digests.
    held.pre_prepare(20, 1, Digest::NULL);
    assert_eq!(held.report().pre_prepared.len(), MAX_FREE_DIGESTS + 1);
    assert_eq!(held.report().validate(21, WINDOW, size(4)), Ok(()));
    for i in 0..max_digests(size(4)) {
        held.pre_prepare(21, 1, free(i));
    }
    let (found, max) = (max_digests(size(4)) + 1, max_digests(size(4)));
    assert_eq!(held.report().validate(22, WINDOW, size(4)), Err(Invalid::Digests { sequence: 1, found, max }));
}

#[test]
fn p_and_q_keep_the_last_view_until_a_checkpoint_covers_them() {
    let mut held = Held::default();
    for (view, sequence, digest) in [(0, 1, A), (2, 1, A), (1, 1, B), (1, 1, A), (0, 2, A)] {
        held.pre_prepare(view, sequence, digest);
        held.prepare(view, sequence, digest);
    }
    let q = [entry(1, A, 2), entry(1, B, 1), entry(2, A, 0)];
    assert_eq!(held.report(), report(0, &[entry(1, A, 2), entry(2, A, 0)], &q));
    held.stable(1);
    held.stable(0);
    held.pre_prepare(3, 1, A);
    held.prepare(3, 1, A);
    assert_eq!((held.h(), held.report()), (1, report(1, &[entry(2, A, 0)], &[entry(2, A, 0)])));
}

#[test]
fn what_was_committed_is_chosen() {
    let q = report(0, &[], &[entry(1, A, 0)]);
    let none = Report::default();
    // Fast at view 0, and the third is a liar.
    assert_eq!(chosen(4, &[q.clone(), q.clone(), none.clone()]), choices(0, &[A]));
    // Nobody else's word carries it.
    assert_eq!(chosen(4, &[q.clone(), none.clone(), none.clone()]), choices(0, &[Digest::NULL]));
    // Prepared by one, known to no other in S: another member is needed.
    let p = report(0, &[entry(1, A, 0)], &[entry(1, A, 0)]);
    assert_eq!(chosen(4, &[p.clone(), none.clone(), none.clone()]), Choice::Wait);
    assert_eq!(chosen(4, &[p.clone(), none.clone(), none, q]), choices(0, &[A]));
    // P against a digest at the same view, and above.
    let b = report(0, &[], &[entry(1, B, 0)]);
    assert_eq!(chosen(4, &[p, b.clone(), b]), Choice::Wait);
}

#[test]
fn ties_go_to_what_some_p_names_then_to_the_smallest() {
    let both = report(0, &[], &[entry(1, A, 0), entry(1, B, 0)]);
    let named = report(0, &[entry(1, B, 0)], &[entry(1, B, 0)]);
    assert_eq!(chosen(4, &[both.clone(), both.clone(), Report::default()]), choices(0, &[A]));
    assert_eq!(chosen(4, &[both.clone(), both.clone(), named, Report::default()]), choices(0, &[B]));
    let higher = report(0, &[], &[entry(1, A, 0), entry(1, B, 1)]);
    assert_eq!(chosen(4, &[higher.clone(), higher, both]), choices(0, &[B]), "the higher view first");
}

#[test]
fn choices_start_behind_the_highest_checkpoint_and_end_at_the_highest_named() {
    let low = report(0, &[entry(1, A, 0)], &[entry(1, A, 0), entry(3, B, 0)]);
    let high = report(2, &[], &[entry(5, A, 0)]);
    let set = [low.clone(), low.clone(), high];
    assert_eq!(chosen(4, &set), choices(2, &[B, Digest::NULL, Digest::NULL]));
    let done = report(9, &[], &[]);
    assert_eq!(chosen(4, &[low.clone(), low, done]), choices(9, &[]), "all below is settled");
    let last = report(u64::MAX, &[], &[]);
    assert_eq!(chosen(4, &[last.clone(), last.clone(), last]), choices(u64::MAX, &[]));
}

#[test]
fn a_set_that_is_none_chooses_nothing() {
    let empty = Report::default();
    let set = |ids: &[u8]| ids.iter().map(|id| (ReplicaId(*id), &empty)).collect::<Vec<_>>();
    assert_eq!(choose(&set(&[0, 2, 3]), size(4)), choices(0, &[]));
    for bad in [&[][..], &[0, 1], &[0, 1, 1], &[1, 0, 2], &[0, 1, 4]] {
        assert_eq!(choose(&set(bad), size(4)), Choice::Wait, "{bad:?}");
    }
}

/// PROTOCOL.md's rule as a search: the best (v', named, digest) for which the sentences hold.
fn by_definition(reports: &[Report], size: Size) -> Choice {
    let start = reports.iter().map(|report| report.h).max().unwrap();
    let all = reports.iter().flat_map(|report| report.prepared.iter().chain(&report.pre_prepared));
    let last = all.map(|entry| entry.sequence).max().unwrap_or(0);
    let mut digests = Vec::new();
    for sequence in start + 1..=last {
        let p = |report: &Report| report.prepared.iter().copied().find(|p| p.sequence == sequence);
        let mut choice = None;
        'found: for view in (0..8).rev() {
            for must_be_named in [true, false] {
                for digest in [Digest::NULL, A, B] {
                    let at = |low: View| {
                        let gives = |q: &Entry| q.sequence == sequence && q.digest == digest && q.view >= low;
                        reports.iter().filter(|report| report.pre_prepared.iter().any(gives)).count() > size.f()
                    };
                    let objects = |report: &&Report| {
                        p(report).is_some_and(|p| p.view > view || (p.view == view && p.digest != digest))
                    };
                    let clear = reports.len() - reports.iter().filter(objects).count();
                    let named = reports.iter().any(|report| p(report) == Some(entry(sequence, digest, view)));
                    if at(view) && !at(view + 1) && clear >= size.quorum() && (named || !must_be_named) {
                        choice = Some(digest);
                        break 'found;
                    }
                }
            }
        }
        if choice.is_none() && reports.iter().filter(|report| p(report).is_none()).count() >= size.quorum() {
            choice = Some(Digest::NULL);
        }
        match choice {
            Some(digest) => digests.push(digest),
            None => return Choice::Wait,
        }
    }
    choices(start, &digests)
}

/// A valid report with few digests, views and sequences, so that members meet.
fn any_report() -> impl Strategy<Value = Report> {
    let digest = prop::sample::select(vec![Digest::NULL, A, B]);
    let entries = prop::collection::vec((1_u64..4, digest, 0_u64..4), 0..8);
    (0_u64..3, entries.clone(), entries).prop_map(|(h, prepared, pre_prepared)| {
        let mut held = Held::default();
        prepared.into_iter().for_each(|(sequence, digest, view)| held.prepare(view, sequence, digest));
        pre_prepared.into_iter().for_each(|(sequence, digest, view)| held.pre_prepare(view, sequence, digest));
        held.stable(h);
        held.report()
    })
}

proptest! {
    #[test]
    fn any_set_chooses_by_the_definition(n in 4_usize..9, reports in prop::collection::vec(any_report(), 8)) {
        let size = size(n);
        for members in size.quorum()..=n {
            let set = &reports[..members.min(reports.len())];
            for report in set {
                prop_assert_eq!(report.validate(4, WINDOW, size), Ok(()));
            }
            prop_assert_eq!(chosen(n, set), by_definition(set, size));
        }
    }

    #[test]
    fn more_reports_never_take_a_choice_away(n in 4_usize..9, reports in prop::collection::vec(any_report(), 8)) {
        let size = size(n);
        let results: Vec<bool> = (size.quorum()..=n)
            .map(|members| chosen(n, &reports[..members]) != Choice::Wait)
            .collect();
        prop_assert!(results.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
