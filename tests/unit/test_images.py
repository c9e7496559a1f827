"""The one way in for pixels, fed with good, bad and hostile files made on the spot."""

import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from backtalk import images
from backtalk.errors import ImageTooLarge, RefusedImage, UnsupportedImage

ORIENTATION, MAKE, GPS_IFD = 0x0112, 0x010F, 0x8825
# A server ignores them; pytest resets the filters.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")
SECRETS = (b"Camera of Jane Doe", b"N-of-nowhere", b"written by hand", b"trailing secret")


@cache
def scene(width: int = 61, height: int = 43) -> Image.Image:
    """Smooth colours, a hard edge and some grain; no side a multiple of a block."""
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(7).integers(0, 24, (height, width, 3))
    smooth = np.stack([x * 199 // width, y * 199 // height, (x + y) * 199 // (width + height)], -1)
    smooth[height // 4 : height // 2, width // 3 : width // 2] = (30, 200, 90)
    return Image.fromarray((smooth + grain).astype(np.uint8))


def transparent_scene() -> Image.Image:
    image = scene().convert("RGBA")
    image.putalpha(scene().convert("L"))
    return image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    tags[MAKE] = "Camera of Jane Doe"
    tags.get_ifd(GPS_IFD).update({1: "N-of-nowhere", 2: (52.0, 31.0, 12.25)})
    return tags


def sixteen_bit_grey() -> Image.Image:
    return Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257)


@cache
def variants() -> dict[str, bytes]:
    """Every way to store the scene that the three formats have and Pillow writes."""
    made: dict[str, bytes] = {}
    for mode in ("L", "RGB", "CMYK"):
        image = scene().convert(mode)
        for progressive in (False, True):
            name = f"jpeg {mode} {'progressive' if progressive else 'baseline'}"
            made[name] = encode(
                image, "JPEG", progressive=progressive, exif=exif(6), comment=b"written by hand"
            )
    made["jpeg with restarts"] = encode(scene(), "JPEG", restart_marker_blocks=3, exif=exif(8))
    made["jpeg with profile"] = encode(scene(), "JPEG", icc_profile=b"p" * 70_000, xmp=b"written by hand")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        made[f"png {mode}"] = encode(scene().convert(mode), "PNG", exif=exif(5), dpi=(72, 72))
    made["png 16-bit grey"] = encode(sixteen_bit_grey(), "PNG", exif=exif(3))
    made["png half transparent"] = encode(transparent_scene(), "PNG")
    made["png transparent colour"] = encode(scene(), "PNG", transparency=(30, 200, 90))
    made["png transparent palette"] = encode(scene().convert("P"), "PNG", transparency=3)
    made["webp"] = encode(scene(), "WEBP", exif=exif(7), xmp=b"written by hand", icc_profile=b"p" * 999)
    made["webp lossless"] = encode(scene(), "WEBP", lossless=True, exif=exif(2))
    made["webp alpha"] = encode(transparent_scene(), "WEBP", exif=exif(4))
    made["webp plain"] = encode(scene(), "WEBP")
    return made


def refusal(data: bytes, **limits: int) -> RefusedImage:
    with pytest.raises(RefusedImage) as caught:
        images.decode(data, **limits)
    assert caught.value.message.endswith(".")
    return caught.value


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side: int) -> bytes:
    """A few hundred bytes that claim side × side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(999))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def multi_picture(kind: int, tail: bytes = b"") -> bytes:
    """Two pictures in one JPEG; `kind` is the second one's type (CIPA DC-007)."""
    data = encode(scene(), "MPO", save_all=True, append_images=[ImageOps.mirror(scene())])
    entries = data.index(struct.pack("<L", 0x030000), data.index(b"MPF\0") + 30)
    second = entries + 16
    return data[:second] + struct.pack("<L", kind) + data[second + 4 :] + tail


# --- what is taken in --------------------------------------------------------------------------
@pytest.mark.parametrize("name", variants())
def test_every_variant_becomes_an_upright_rgb_array(name: str) -> None:
    picture = images.decode(variants()[name])
    assert picture.format == name.split(maxsplit=1)[0].upper()
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous
    upright = (61, 43) if picture.orientation >= 5 else (43, 61)
    assert picture.pixels.shape == (*upright, 3)
    assert (picture.height, picture.width) == upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_as_pillow_applies_it(kind: str, orientation: int) -> None:
    data = encode(scene(), kind, exif=exif(orientation))
    with Image.open(BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    picture = images.decode(data)
    assert picture.orientation == orientation
    assert np.array_equal(picture.pixels, expected)


def test_an_orientation_that_is_given_replaces_the_files_own() -> None:
    data = encode(scene(), "PNG", exif=exif(6))
    turned, plain = images.decode(data, orientation=3), images.decode(data, orientation=1)
    assert (turned.orientation, plain.orientation) == (3, 1)
    assert np.array_equal(turned.pixels, np.rot90(plain.pixels, 2))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_upright(value: int) -> None:
    assert images.decode(encode(scene(), "JPEG", exif=exif(value))).orientation == 1


def test_damaged_metadata_does_not_refuse_sound_pixels() -> None:
    data = encode(scene(), "JPEG", exif=exif(6)).replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\xff\xff")
    assert images.decode(data).orientation == 1


def test_what_is_transparent_is_laid_over_white() -> None:
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    pixels = images.decode(encode(image, "PNG")).pixels
    assert pixels.tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour_is_laid_over_white_too(mode: str) -> None:
    image = Image.new("RGB", (2, 1), (30, 30, 30)).convert(mode)
    key = image.getpixel((0, 0))
    pixels = images.decode(encode(image, "PNG", transparency=key)).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    levels = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    pixels = images.decode(encode(Image.fromarray(levels), "PNG")).pixels
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_a_transparent_level_of_sixteen_bit_grey_is_white() -> None:
    data = encode(Image.fromarray(np.array([[500, 40_000]], np.uint16)), "PNG")
    before_pixels = data.index(b"IDAT") - 4
    keyed = data[:before_pixels] + png_chunk(b"tRNS", struct.pack(">H", 500)) + data[before_pixels:]
    assert images.decode(keyed).pixels[0, :, 0].tolist() == [255, 40_000 >> 8]


@pytest.mark.parametrize("kind", [0x010001, 0x010002], ids=["VGA preview", "full HD preview"])
def test_a_camera_jpeg_with_a_preview_is_one_picture(kind: int) -> None:
    picture = images.decode(multi_picture(kind))
    assert picture.format == "JPEG"
    assert picture.pixels.shape == (43, 61, 3)


def test_a_phone_jpeg_with_a_gain_map_is_one_picture() -> None:
    data = multi_picture(0, b"urn:com:apple:photo:2020:aux:hdrgainmap")
    assert np.array_equal(images.decode(data).pixels, images.decode(multi_picture(0x010001)).pixels)


# --- what is refused ---------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [0, 0x020001, 0x020002], ids=["undefined", "panorama", "stereo"])
def test_a_jpeg_of_several_pictures_is_refused(kind: int) -> None:
    assert refusal(multi_picture(kind)).reason == "multi-picture"


def test_nothing_is_refused() -> None:
    assert refusal(b"").reason == "empty"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PDF", "AVIF", "JPEG2000"])
def test_another_kind_of_image_is_named_and_refused(kind: str) -> None:
    error = refusal(encode(scene(), kind))
    assert isinstance(error, UnsupportedImage)
    assert error.reason == "unsupported-format"
    assert kind.removesuffix("2000") in error.message


@pytest.mark.parametrize("data", [b"hello, I am text\n", b"\0" * 5000, b"\xff\xd8", b"RIFF\0\0\0\0WAVE"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    error = refusal(data)
    assert isinstance(error, UnsupportedImage)
    assert error.reason == "not-an-image"


@pytest.mark.parametrize("magic", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBPVP8 "])
def test_text_behind_the_first_bytes_of_an_image_is_refused(magic: bytes) -> None:
    assert refusal(magic + b"hello, I am text\n" * 9).reason in {"not-an-image", "damaged", "truncated"}


@pytest.mark.parametrize("name", variants())
def test_a_file_cut_off_anywhere_is_refused(name: str) -> None:
    data = variants()[name]
    for kept in {12, 30, len(data) // 3, len(data) // 2, len(data) * 9 // 10, len(data) - 20, len(data) - 3}:
        assert refusal(data[:kept]).reason in {"truncated", "not-an-image", "damaged"}


def test_a_cut_jpeg_says_that_it_is_truncated() -> None:
    error = refusal(variants()["jpeg RGB baseline"][:-200])
    assert error.reason == "truncated"
    assert "whole file" in error.message


def test_a_cut_jpeg_filled_up_with_zeros_is_refused() -> None:
    assert refusal(variants()["jpeg with restarts"][:-200] + b"\0" * 4096).reason == "truncated"


def test_animations_are_refused() -> None:
    frames = [ImageOps.mirror(scene())]
    for kind in ("PNG", "WEBP"):
        data = encode(scene(), kind, save_all=True, append_images=frames)
        assert refusal(data).reason == "animated"


def test_an_animation_of_one_frame_is_refused() -> None:
    plain = encode(scene(), "PNG")
    control = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    assert refusal(plain[:33] + control + plain[33:]).reason == "animated"


def test_more_bytes_than_the_limit_are_refused_unread() -> None:
    error = refusal(b"x" * 1001, max_bytes=1000)
    assert isinstance(error, ImageTooLarge)
    assert error.reason == "too-large"


@pytest.mark.parametrize("side", [6_000, 12_000, 50_000])
def test_a_hundred_megapixels_in_few_bytes_are_refused_before_decoding(side: int) -> None:
    error = refusal(huge_png(side))  # decoding would call it truncated
    assert isinstance(error, ImageTooLarge)
    assert error.reason == "too-many-pixels"


def test_a_huge_webp_canvas_is_refused_before_decoding() -> None:
    data = bytearray(encode(transparent_scene(), "WEBP"))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff\x3f\0\xff\x3f\0"  # 16,384 × 16,384
    assert refusal(bytes(data)).reason == "too-many-pixels"


def test_the_pixel_limit_can_be_lowered_and_is_exact() -> None:
    data = encode(scene(), "PNG")
    assert images.decode(data, max_pixels=61 * 43).width == 61
    assert refusal(data, max_pixels=61 * 43 - 1).reason == "too-many-pixels"


def damage(data: bytes, dice: random.Random) -> bytes:
    broken = bytearray(data)
    match dice.randrange(4):
        case 0:
            del broken[dice.randrange(len(broken)) :]
        case 1:
            at = dice.randrange(len(broken))
            broken[at:at] = dice.randbytes(dice.randrange(1, 9))
        case _:
            for _ in range(dice.choice((1, 2, 8))):
                within = min(len(broken), dice.choice((60, 200, 99_999)))
                broken[dice.randrange(within)] = dice.choice((0, 1, 127, 255, dice.randrange(256)))
    return bytes(broken)


def test_damaged_files_are_refused_or_decoded_and_nothing_else() -> None:
    dice = random.Random(20_261_124)
    reasons: dict[str, int] = {}
    for _ in range(3000):
        data = damage(dice.choice(list(variants().values())), dice)
        try:
            picture = images.decode(data)
        except RefusedImage as error:
            reasons[error.reason] = reasons.get(error.reason, 0) + 1
            continue
        stripped = images.strip_metadata(data, picture.format)
        again = images.decode(stripped, orientation=picture.orientation)
        assert np.array_equal(again.pixels, picture.pixels)
    assert {"truncated", "damaged", "not-an-image"} <= reasons.keys()


def test_many_threads_decode_the_same_as_one() -> None:
    work = list(variants().values()) * 4
    one = [images.pixels_digest(images.decode(data).pixels) for data in work]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda data: images.pixels_digest(images.decode(data).pixels), work))
    assert many == one


# --- metadata ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", variants())
def test_cutting_metadata_leaves_the_pixels_alone_and_the_secrets_out(name: str) -> None:
    data = variants()[name]
    picture = images.decode(data)
    stripped = images.strip_metadata(data + b"trailing secret", picture.format)
    again = images.decode(stripped, orientation=picture.orientation)
    assert np.array_equal(again.pixels, picture.pixels)
    assert not [secret for secret in SECRETS if secret in stripped]
    assert images.strip_metadata(stripped, picture.format) == stripped
    assert len(stripped) <= len(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_place_where_a_photo_was_taken_is_gone(kind: str) -> None:
    data = encode(scene(), kind, exif=exif(6))
    assert b"N-of-nowhere" in data
    with Image.open(BytesIO(images.strip_metadata(data, kind))) as image:
        assert dict(image.getexif()) == {}
        assert image.info.keys() <= {
            *("jfif", "jfif_version", "jfif_unit", "jfif_density"),
            *("loop", "background", "timestamp", "duration"),
        }


def test_the_second_picture_of_a_file_is_dropped() -> None:
    data = multi_picture(0x010001)
    stripped = images.strip_metadata(data, "JPEG")
    with Image.open(BytesIO(stripped)) as image:
        assert image.format == "JPEG"
    assert stripped.count(b"\xff\xd8\xff") == 1


def test_the_preview_inside_a_jfif_header_is_dropped() -> None:
    data = encode(scene(), "JPEG")
    assert data[2:6] == b"\xff\xe0\x00\x10"
    preview = b"\xff\xe0" + struct.pack(">H", 16 + 3) + data[6:18] + b"\x01\x01" + b"RGB"
    assert images.strip_metadata(data[:2] + preview + data[20:], "JPEG") == images.strip_metadata(
        data, "JPEG"
    )


def test_the_colour_marker_of_adobe_stays() -> None:
    data = encode(scene().convert("CMYK"), "JPEG")
    assert b"Adobe" in images.strip_metadata(data, "JPEG")


def test_webp_flags_no_longer_announce_what_was_cut() -> None:
    stripped = images.strip_metadata(variants()["webp alpha"], "WEBP")
    assert stripped[12:16] == b"VP8X"
    assert stripped[20] == 0x10
    assert int.from_bytes(stripped[4:8], "little") == len(stripped) - 8


# --- what is made of pixels --------------------------------------------------------------------
def pixels(width: int = 61, height: int = 43) -> NDArray[np.uint8]:
    return np.asarray(scene(width, height))


def test_the_input_is_the_largest_centred_square_scaled() -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = (9, 99, 199)
    scaled = images.to_input(wide, 20)
    assert scaled.shape == (20, 20, 3)
    assert scaled.dtype == np.uint8
    assert np.array_equal(scaled, np.full((20, 20, 3), (9, 99, 199)))  # nothing shines in from outside
    tall = wide.transpose(1, 0, 2).copy()
    assert np.array_equal(images.to_input(tall, 20), scaled.transpose(1, 0, 2))


def test_the_input_of_the_right_size_is_the_image_itself() -> None:
    assert np.array_equal(images.to_input(pixels(32, 32), 32), pixels(32, 32))


def test_the_input_is_pillows_antialiased_bicubic() -> None:
    square = scene(300, 300)
    plain = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC))
    assert np.array_equal(images.to_input(np.asarray(square), 224), plain)


def test_the_input_from_a_large_photo_is_within_two_levels_of_the_plain_filter() -> None:
    large = scene(300, 300).resize((2400, 2400), Image.Resampling.BICUBIC)
    plain = np.asarray(large.resize((96, 96), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(images.to_input(np.asarray(large), 96) - plain).max() <= 2


def test_a_picture_of_one_pixel_goes_all_the_way() -> None:
    dot = images.decode(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).pixels
    assert images.to_input(dot, 8).shape == (8, 8, 3)
    assert isinstance(images.perceptual_hash(dot), int)
    assert images.thumbnail(dot, 100).startswith(b"\xff\xd8")


def test_the_digest_tells_shape_and_pixels_apart() -> None:
    flat = np.zeros((2, 8, 3), np.uint8)
    assert images.pixels_digest(flat) != images.pixels_digest(flat.reshape(4, 4, 3))
    assert images.pixels_digest(flat) == images.pixels_digest(flat.copy())
    changed = flat.copy()
    changed[0, 0, 0] = 1
    assert images.pixels_digest(changed) != images.pixels_digest(flat)
    assert len(images.pixels_digest(flat)) == 64


def test_the_same_pixels_have_one_digest_whatever_the_container() -> None:
    png, webp = encode(scene(), "PNG", exif=exif(6)), encode(scene(), "WEBP", lossless=True, exif=exif(6))
    assert images.pixels_digest(images.decode(png).pixels) == images.pixels_digest(images.decode(webp).pixels)


@pytest.mark.parametrize("quality", [95, 75, 50])
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
def test_a_copy_recompressed_or_scaled_hashes_within_four_bits(quality: int, scale: float) -> None:
    original = scene(400, 300)
    copy = original.resize((int(400 * scale), int(300 * scale)), Image.Resampling.BICUBIC)
    copied = images.decode(encode(copy, "JPEG", quality=quality)).pixels
    distance = images.hamming(images.perceptual_hash(copied), images.perceptual_hash(np.asarray(original)))
    assert distance <= 4


def test_different_pictures_hash_far_apart() -> None:
    fields = np.random.default_rng(3).integers(0, 256, (20, 8, 8, 3), np.uint8)
    hashes = [
        images.perceptual_hash(np.asarray(Image.fromarray(field).resize((200, 200)))) for field in fields
    ]
    assert min(images.hamming(a, b) for a, b in pairwise(hashes)) > 10


def test_a_hash_fits_a_signed_bigint_and_flat_images_hash_alike() -> None:
    flats = {images.perceptual_hash(np.full((30, 50, 3), level, np.uint8)) for level in (1, 90, 254, 255)}
    assert len(flats) == 1
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
        assert -(2**63) <= images.perceptual_hash(noise) < 2**63


def test_hamming_counts_bits_of_signed_hashes() -> None:
    assert images.hamming(-1, 0) == 64
    assert images.hamming(-(2**63), 0) == 1
    assert images.hamming(5, 6) == 2


def test_one_hash_against_many_agrees_with_one_by_one() -> None:
    many = np.random.default_rng(1).integers(-(2**63), 2**63, 500, np.int64)
    many[:2] = (-(2**63), 2**63 - 1)
    for one in (0, -1, 2**63 - 1, -(2**63), int(many[7])):
        expected = [images.hamming(one, int(other)) for other in many]
        assert images.hamming_to_many(one, many).tolist() == expected


def test_a_thumbnail_is_a_bare_jpeg_that_is_never_enlarged() -> None:
    small, large = images.thumbnail(pixels(), 400), images.thumbnail(pixels(900, 600), 300)
    with Image.open(BytesIO(small)) as image:
        assert (image.format, image.size) == ("JPEG", (61, 43))
    with Image.open(BytesIO(large)) as image:
        assert image.size == (300, 200)
        assert not image.getexif()
