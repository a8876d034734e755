# GradMatch per batch on CIFAR-10 kept as a folder of JPEG files, in the form of CORDS's own
# examples: the only new key is warm_start. DIR holds train/ and test/ with a folder a class.
# lipt-cords train examples/cifar10_imagefolder.py --set dataset.name=imagefolder:DIR
config = dict(
    setting="SL",
    is_reg=False,
    dataset=dict(name="imagefolder:cifar10-images", datadir="data", feature="dss", type="image"),
    dataloader=dict(shuffle=True, batch_size=128, pin_memory=True),
    model=dict(architecture="ResNet18", type="pre-defined", numclasses=10),
    ckpt=dict(is_load=False, is_save=True, dir="results/", save_every=20),
    loss=dict(type="CrossEntropyLoss", use_sigmoid=False),
    optimizer=dict(type="sgd", momentum=0.9, lr=0.05, weight_decay=5e-4, nesterov=True),
    scheduler=dict(type="cosine_annealing", T_max=300),
    dss_args=dict(
        type="GradMatchPB",
        fraction=0.1,
        select_every=20,
        lam=0,
        selection_type="PerBatch",
        v1=True,
        valid=False,
        eps=1e-100,
        linear_layer=True,
        kappa=0,
        warm_start=dict(type="lipt", num_workers=8, common_steps=400, epochs=4),
        collate_fn=None,
    ),
    train_args=dict(num_epochs=300, device="cuda", print_every=10, run=1, wandb=False),
)
