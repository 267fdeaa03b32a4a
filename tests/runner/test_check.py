"""The check command: what it says about a recipe, and that it leaves nothing behind."""

TEACHER = "networks.teacher={model: deeplabv3, args: {backbone: resnet18, output_stride: 16, width: 8}, train: false}"


def test_check_reports_every_part_and_writes_nothing(server, folder):
    result = server(
        folder,
        "check",
        "tiny.yaml",
        TEACHER,
        "losses=[{loss: cross_entropy}, {loss: fitnet, weight: 10, after: 2}]",
        "loop.accumulate=2",
    )
    assert result.code == 0, result.err
    firsts = [line.split()[0] for line in result.out.splitlines() if line[:1].strip()]
    assert firsts == ["recipe", "data", "labels", "network", "network", "term", "term", "cost", "verdict"]
    assert "15 images to train on" in result.out and "student: pspnet, trained" in result.out
    assert "teacher: deeplabv3, frozen" in result.out and "this recipe will run" in result.out
    assert "fitnet" in result.out and "(iteration 3)" in result.out, "the term behind its gate is tried too"
    assert not (folder / "runs").exists()


def test_check_warns_of_parameters_without_a_gradient(server, folder):
    result = server(folder, "check", "tiny.yaml", TEACHER, "losses=[{loss: fitnet}]")
    assert result.code == 0, result.err
    assert "get no gradient from any active term" in result.out


def test_check_of_a_recipe_whose_teacher_is_not_trained_yet(server, folder):
    (folder / "teacher.yaml").write_text("extends: tiny.yaml\nname: teacher\n")
    result = server(
        folder,
        "check",
        "tiny.yaml",
        "losses=[{loss: cross_entropy}, {loss: kl}]",
        "networks.teacher={model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8}, "
        "train: false, weights: {recipe: teacher.yaml}}",
    )
    assert result.code == 0, result.err
    assert "teacher.yaml will be trained first, into runs/teacher" in result.out
