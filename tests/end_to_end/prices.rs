//! A budget that groups share goes by what each of them costs the output.

use paredown::{Model, PruneOptions, prune};

use crate::command::fixture;

#[test]
fn a_report_has_the_price_of_every_group_and_what_all_of_it_costs() {
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        let model = Model::load(fixture(name)).unwrap();
        let pruned = prune(&model, &PruneOptions::macs(0.6).data(fixture("calib.npz"))).unwrap();
        let report = &pruned.report;
        let pricing = report.pricing.last().unwrap();
        assert!(report.model.after.macs * 10 <= report.model.before.macs * 6, "{name}");
        assert!(pricing.samples > 0 && pricing.metric == "KL divergence", "{name}: {}", pricing.metric);
        assert!(pricing.loss > 0.0 && pricing.measured.unwrap() > 0.0, "{name}");
        for price in &pricing.groups {
            let group = report.groups.iter().find(|group| group.name == price.name).unwrap();
            let (loss, measured) = (price.loss.unwrap(), &price.measured);
            assert_eq!(price.kept, group.kept, "{name} {}", price.name);
            assert_eq!(loss == 0.0, price.kept == group.size, "{name} {}", price.name);
            assert!(measured.windows(2).all(|pair| pair[0].0 > pair[1].0 && pair[0].1 <= pair[1].1), "{measured:?}");
            assert!(price.next.is_none_or(|(kept, next)| kept < price.kept && next >= loss), "{name} {}", price.name);
        }
    }
}

/// Without samples scores are shared by, and the report says what that is.
#[test]
fn without_samples_the_report_says_that_the_shares_are_a_guess() {
    let model = Model::load(fixture("digits_resnet.onnx")).unwrap();
    let pruned = prune(&model, &PruneOptions::macs(0.6)).unwrap();
    assert!(pruned.report.pricing.is_empty());
    assert!(pruned.report.notes.iter().any(|note| note.contains("only an estimate")), "{:?}", pruned.report.notes);
}
